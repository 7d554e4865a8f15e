//! The key server and its operator's command line.
