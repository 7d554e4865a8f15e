//! Arbitrary text as a PKCS#11 URI: no panic, what is printed is read again as the same, and nothing of the query
//! is ever printed.

#![no_main]

use keyhaven_hsm::Uri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    check(text);
    // Half of the inputs should get past the scheme.
    check(&format!("pkcs11:{text}"));
});

fn check(text: &str) {
    let uri: Uri = match text.parse() {
        Ok(uri) => uri,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    let printed = uri.to_string();
    assert!(!printed.contains('?'), "the query is not printed");
    let again: Uri = printed.parse().expect("what we print, we read");
    assert_eq!(
        (again.token(), again.serial(), again.manufacturer()),
        (uri.token(), uri.serial(), uri.manufacturer())
    );
    assert_eq!(
        (again.model(), again.object(), again.id()),
        (uri.model(), uri.object(), uri.id())
    );
    assert_eq!(
        (again.class(), again.slot_id()),
        (uri.class(), uri.slot_id())
    );
    assert_eq!(again.to_string(), printed);
}
