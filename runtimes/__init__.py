"""Run task code inside limits: the port, the jail, and the runtimes (JavaScript, WebAssembly, Python)."""
