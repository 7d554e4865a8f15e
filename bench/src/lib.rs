//! The same work on us and on peers, side by side.
