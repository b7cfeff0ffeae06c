//! The bytes of NATS.
