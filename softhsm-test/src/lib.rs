//! A fresh token for each test, and the module that counts calls and injects faults.
