"""The wire contract's guard: what would break the clients of the last release is refused."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.project import ROOT


@pytest.fixture
def contract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("contract", ROOT / "proto" / "contract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def image_of(contract: ModuleType, root: Path) -> Path:
    made = root / "new.binpb"
    contract.protoc(root, "--include_imports", "--include_source_info", f"--descriptor_set_out={made}")
    return made


@pytest.fixture
def copied(contract: ModuleType, tmp_path: Path) -> Path:
    (tmp_path / contract.PACKAGE).mkdir(parents=True)
    for file in contract.proto_files(ROOT / "proto"):
        shutil.copy(file, tmp_path / contract.PACKAGE)
    return tmp_path


def test_the_contract_serves_clients_of_the_last_release(contract: ModuleType, copied: Path) -> None:
    contract.compatible(image_of(contract, copied))


@pytest.mark.parametrize(
    ("before", "after"),
    [("  string workflow = 3;", "  string workflow = 103;"), ("  rpc CancelRun(", "  rpc CancelTheRun(")],
    ids=["a moved field", "a renamed method"],
)
def test_a_change_that_breaks_them_is_refused(contract: ModuleType, copied: Path, before: str, after: str) -> None:
    file = copied / contract.PACKAGE / "workflow_service.proto"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    with pytest.raises(contract.ContractError, match="buf breaking"):
        contract.compatible(image_of(contract, copied))
