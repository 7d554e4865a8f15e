//! Records in a file: what joins, what is refused, and what a full or broken disk leaves.
