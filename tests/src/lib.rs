//! Whole-system tests over sockets, with real clients.
