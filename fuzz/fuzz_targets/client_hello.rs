//! Arbitrary bytes as the records of a ClientHello: they are read or refused, and nothing panics.
#![no_main]

use keyhaven_handshake::ClientHello;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|records: &[u8]| {
    if let Ok(hello) = ClientHello::from_records(records) {
        assert!(hello.suites.len() <= records.len() && hello.groups.len() <= records.len());
    }
});
