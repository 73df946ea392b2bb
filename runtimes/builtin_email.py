"""Ready-made handler `email.send`: one message through an SMTP server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import smtplib
import socket
import ssl
from collections.abc import Mapping
from email.message import EmailMessage
from functools import partial
from typing import Literal

import pydantic

from windlass.runtimes import failures
from windlass.runtimes.builtin_network import NetworkPolicy, checked_address
from windlass.runtimes.python_context import TaskContext, TaskFailure
from windlass.runtimes.python_handlers import Handler, handler


class Email(pydantic.BaseModel):
    """The message. Give `text`, `html`, or both."""

    model_config = pydantic.ConfigDict(extra="forbid")

    to: list[str] = pydantic.Field(min_length=1, max_length=100)
    subject: str = pydantic.Field(max_length=998)
    text: str = ""
    html: str = ""
    cc: list[str] = pydantic.Field(default=[], max_length=100)
    reply_to: str = ""


class EmailConfig(pydantic.BaseModel):
    """The server and the sender."""

    model_config = pydantic.ConfigDict(extra="forbid")

    host: str
    sender: str
    port: int = pydantic.Field(default=587, gt=0, lt=65536)
    #: `starttls`: begin plain, insist on TLS. `tls`: TLS from the start. `none`: plain, for a server on this machine.
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password: pydantic.SecretStr = pydantic.SecretStr("")
    timeout_seconds: float = pydantic.Field(default=30.0, gt=0, le=300)


class Sent(pydantic.BaseModel):
    """What came of it. `refused`: recipients that the server did not take, with what it said."""

    message_id: str
    refused: dict[str, str] = {}


class _PinnedSmtp(smtplib.SMTP):
    """Connects to the address that was checked; the certificate is that of the host."""

    def __init__(self, address: str, config: EmailConfig) -> None:
        self._address = address
        self._tls = config.security == "tls"
        self._name = config.host
        super().__init__(config.host, config.port, timeout=config.timeout_seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((self._address, port), timeout)
        if not self._tls:
            return plain
        return ssl.create_default_context().wrap_socket(plain, server_hostname=self._name)


def email_handlers(policy: NetworkPolicy) -> list[Handler]:
    """Return the handler, bound to what it may talk to."""

    @handler("email.send", name="Email", category="network")
    async def email_send(input: Email, config: EmailConfig, ctx: TaskContext) -> Sent:
        """Send an email. Its Message-ID is made of the task, so that a repeated attempt repeats it."""
        denied = partial(ctx.denied, "address", "email.send")
        address = await checked_address(policy, config.host, config.port, denied)
        message = _message(input, config, ctx.task.idempotency_key)
        refused = await asyncio.to_thread(_send, address, config, message)
        return Sent(message_id=message["Message-ID"], refused=refused)

    return [email_send]


def _message(email: Email, config: EmailConfig, idempotency_key: str) -> EmailMessage:
    message = EmailMessage()
    name = hashlib.sha256(idempotency_key.encode()).hexdigest()[:32]
    try:
        message["From"] = config.sender
        message["To"] = ", ".join(email.to)
        if email.cc:
            message["Cc"] = ", ".join(email.cc)
        if email.reply_to:
            message["Reply-To"] = email.reply_to
        message["Subject"] = email.subject
        message["Message-ID"] = f"<{name}@{config.sender.rpartition('@')[2].strip('> ')}>"
    except ValueError as error:  # a line end in a header: somebody tries to add headers of their own
        raise TaskFailure(failures.BAD_INPUT, f"this email cannot be written: {error}", retryable=False) from error
    message.set_content(email.text)
    if email.html:
        message.add_alternative(email.html, subtype="html")
    return message


def _send(address: str, config: EmailConfig, message: EmailMessage) -> dict[str, str]:
    """Talk to the server. Raises TaskFailure."""
    try:
        with contextlib.closing(_PinnedSmtp(address, config)) as server:
            if config.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if config.username:
                server.login(config.username, config.password.get_secret_value())
            refused = server.send_message(message)
            with contextlib.suppress(smtplib.SMTPException):
                server.quit()  # the message was taken; how the server says goodbye changes nothing
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        details = {"status": error.smtp_code, "answer": said}
        retryable = 400 <= error.smtp_code < 500
        raise TaskFailure(
            failures.REMOTE_ERROR, f"the mail server said: {said}", details=details, retryable=retryable
        ) from error
    except smtplib.SMTPRecipientsRefused as error:
        raise _none_taken(error.recipients) from error
    except (smtplib.SMTPException, OSError) as error:
        raise TaskFailure(failures.REMOTE_ERROR, f"{type(error).__name__}: {error}", retryable=True) from error
    return _said(refused)


def _said(refused: Mapping[str, tuple[int, bytes]]) -> dict[str, str]:
    return {recipient: f"{code} {said.decode('utf-8', 'replace')}" for recipient, (code, said) in refused.items()}


def _none_taken(refused: Mapping[str, tuple[int, bytes]]) -> TaskFailure:
    """Worth another attempt if the server may take one of them later (4xx), as one that greylists does."""
    said = _said(refused)
    message = f"the mail server takes none of the recipients: {next(iter(said.values()), '')}"
    retryable = any(400 <= code < 500 for code, _ in refused.values())
    return TaskFailure(failures.REMOTE_ERROR, message, details={"refused": said}, retryable=retryable)
