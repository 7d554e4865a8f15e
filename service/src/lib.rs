//! What every daemon shares: mutually authenticated listener and dialer, framed connection, config reading, telemetry, shutdown.
