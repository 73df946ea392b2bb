"""Everything durable: the port (`windlass.storage.port`) and its backends. Only composition roots name a backend."""
