//! What holds of every template, whatever the purpose.

use keyhaven_types::{KekId, KeyId};

use super::*;
use crate::module::TokenInfo;

fn each(f: impl Fn(&Quirks, Spec)) {
    let quirks = Quirks::of(&TokenInfo::default());
    for &kind in KeyKind::ALL {
        for &purpose in Purpose::ALL {
            let id = KeyId([1; 16]);
            let spec = Spec {
                id,
                version: 1,
                kind,
                purpose,
            };
            if spec.check().is_ok() {
                f(quirks, spec);
            }
        }
    }
}

fn has(template: &[Item], wanted: &Attribute) -> bool {
    let is_it = |item: &Item| matches!(item, Item::Plain(attribute) if attribute == wanted);
    template.iter().any(is_it)
}

fn is_locked(template: &[Item]) -> bool {
    let last = template.last();
    let ends = matches!(last, Some(Item::Plain(Attribute::Modifiable(false))));
    ends && has(template, &Attribute::Copyable(false))
}

#[test]
fn every_managed_key_is_a_locked_sensitive_session_object_of_one_use() {
    each(|quirks, spec| {
        for template in [
            made(quirks, &spec),
            unwrapped(quirks, &spec, Home::Central),
            unwrapped(quirks, &spec, Home::Site),
        ] {
            assert!(is_locked(&template), "{spec:?}");
            for wanted in [
                Attribute::Token(false),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Derive(false),
            ] {
                assert!(has(&template, &wanted), "{spec:?}: {wanted:?}");
            }
            let can = |usage: fn(bool) -> Attribute| has(&template, &usage(true));
            let signs = can(Attribute::Sign) || can(Attribute::SignRecover);
            let decrypts = can(Attribute::Decrypt) || can(Attribute::Encrypt);
            let wraps = can(Attribute::Wrap) || can(Attribute::Unwrap);
            let uses = [signs, decrypts, wraps].into_iter().filter(|&does| does);
            assert_eq!(uses.count(), 1, "{spec:?}");
        }
    });
}

#[test]
fn a_managed_key_leaves_central_under_trusted_keys_and_a_site_not_at_all() {
    each(|quirks, spec| {
        let central = unwrapped(quirks, &spec, Home::Central);
        assert!(has(&central, &Attribute::WrapWithTrusted(true)));
        let site = unwrapped(quirks, &spec, Home::Site);
        assert!(has(&site, &Attribute::Extractable(false)));
        assert!(!has(&site, &Attribute::Extractable(true)));
    });
}

#[test]
fn what_carries_keys_is_locked() {
    each(|quirks, spec| {
        let id = KekId([1; 16]);
        for template in [
            carrier(quirks, spec.purpose, 1),
            site_kek(quirks, spec.purpose, 1, "k", id),
            transport_private(),
            trusted_public(&[1], &[3]),
        ] {
            assert!(is_locked(&template), "{spec:?}");
        }
        assert!(is_locked(&signing("k").1));
    });
}
