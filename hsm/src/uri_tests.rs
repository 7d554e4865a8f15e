//! Cases and properties of the URI parser; the fuzz target `pkcs11_uri` asks for the same invariants.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Uri, UriError> {
    text.parse()
}

#[test]
fn every_attribute_is_read() {
    let uri = parse(
        "pkcs11:token=My%20Token;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=ab12;object=demo;id=%01%ff;type=private?pin-source=file:pin&module-path=/usr/lib/x.so",
    )
    .unwrap();
    assert_eq!(uri.token(), Some("My Token"));
    assert_eq!(uri.manufacturer(), Some("SoftHSM project"));
    assert_eq!(uri.model(), Some("SoftHSM v2"));
    assert_eq!(uri.serial(), Some("ab12"));
    assert_eq!(uri.object(), Some("demo"));
    assert_eq!(uri.id(), Some(&[0x01, 0xff][..]));
    assert_eq!(uri.class(), Some(ObjectClass::Private));
    assert_eq!(uri.module_path(), Some(Path::new("/usr/lib/x.so")));
    assert_eq!(uri.pin_source(), Some(&PinSource::File("pin".into())));
    assert!(uri.warnings().is_empty());
}

#[test]
fn the_empty_uri_names_nothing() {
    assert_eq!(parse("pkcs11:").unwrap(), Uri::default());
    assert_eq!(parse("PKCS11:token=a").unwrap().token(), Some("a"));
}

#[test]
fn places_of_a_pin() {
    let source = |value: &str| {
        parse(&format!("pkcs11:?pin-source={value}")).map(|uri| uri.pin_source().cloned())
    };
    for file in [
        "file:/etc/pin",
        "file:///etc/pin",
        "/etc/pin",
        "file:%2Fetc%2Fpin",
    ] {
        assert_eq!(source(file), Ok(Some(PinSource::File("/etc/pin".into()))));
    }
    assert_eq!(
        source("cred:pin.a"),
        Ok(Some(PinSource::Credential("pin.a".into())))
    );
    assert_eq!(source("terminal:"), Ok(Some(PinSource::Terminal)));
    for bad in [
        "|cat",
        "env:PIN",
        "https://a/b",
        "file://host/pin",
        "file:",
        "cred:",
        "cred:../pin",
        "cred:a/b",
        "pin",
        "",
        "/a%00b",
    ] {
        assert!(source(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_pin_in_the_uri_is_refused_and_not_repeated() {
    for text in [
        "pkcs11:token=a?pin-value=s3cret",
        "pkcs11:token=a?pin-source=s3cret",
        "pkcs11:token=a?s3cret",
        "pkcs11:type=s3cret",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    assert_eq!(
        parse("pkcs11:?pin-value=1&pin-source=terminal:"),
        Err(UriError::PinValue)
    );
}

#[test]
fn unknown_attributes_and_slot_ids_are_warned_of() {
    let uri = parse("pkcs11:token=a;library-version=3;x-PIN9=1234;slot-id=7?x-vendor=1").unwrap();
    assert_eq!(uri.slot_id(), Some(7));
    assert_eq!(uri.warnings().len(), 4);
    assert!(
        uri.warnings()
            .iter()
            .all(|warning| !warning.contains("1234"))
    );
}

#[test]
fn what_is_not_a_uri_is_refused() {
    for bad in [
        "",
        "pkcs11",
        "http://example.org",
        "pkcs11:token",
        "pkcs11:token=a;;object=b",
        "pkcs11:token=a;",
        "pkcs11:?",
        "pkcs11:token=a;token=b",
        "pkcs11:token=%4",
        "pkcs11:token=%zz",
        "pkcs11:token=%ff",
        "pkcs11:token=a\nb",
        "pkcs11:type=key",
        "pkcs11:slot-id=-1",
        "pkcs11:slot-id=99999999999999999999",
        "pkcs11:?module-path=lib.so",
        "pkcs11:?pin-source=terminal:&pin-source=terminal:",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    let long = format!("pkcs11:token={}", "a".repeat(5000));
    assert_eq!(parse(&long), Err(UriError::Length));
}

#[test]
fn display_leaves_the_query_out() {
    let uri = parse("pkcs11:object=a%2Fb%3Bc;id=%41?pin-source=file:/secret/place").unwrap();
    assert_eq!(uri.to_string(), "pkcs11:object=a%2Fb%3Bc;id=%41");
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,200}", tail in "[a-z0-9=;?&%:/-]{0,80}") {
        let _ = parse(&text);
        let _ = parse(&format!("pkcs11:{text}"));
        let _ = parse(&format!("pkcs11:{tail}"));
    }

    #[test]
    fn what_is_printed_is_read_again(
        token in proptest::option::of("\\PC{0,32}"),
        object in proptest::option::of("\\PC{0,32}"),
        id in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        slot_id in proptest::option::of(any::<u64>()),
    ) {
        let uri = Uri { token, object, id, slot_id, ..Uri::default() };
        let mut again = parse(&uri.to_string()).unwrap();
        again.warnings.clear();
        prop_assert_eq!(again, uri);
    }
}
