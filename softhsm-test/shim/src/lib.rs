//! A PKCS#11 module between the caller and a real one: counts calls, follows live objects, injects faults.
