//! Tests of the sealed rekey state: what it serves, and what it refuses.

use super::*;

const CONNECTION: [u8; 32] = [3; 32];
const PROXY: &str = "spiffe://example.org/proxy/a";

fn binding() -> RekeyBinding<'static> {
    RekeyBinding {
        connection: &CONNECTION,
        proxy: PROXY,
        direction: Direction::Write,
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn facts() -> RekeyFacts {
    RekeyFacts {
        site: [5; 32],
        aead: AeadAlgorithm::Aes128Gcm,
        hash: HashAlgorithm::Sha256,
        not_after: now() + Duration::from_secs(86_400),
    }
}

fn sealer() -> Sealer {
    Sealer::new(SealKey::new(&Secret::new(vec![7; 32])).unwrap())
}

fn state(sealer: &Sealer) -> Vec<u8> {
    sealer
        .seal(
            None,
            now(),
            binding(),
            facts(),
            1,
            &TrafficSecret::Bytes(Secret::new(vec![9; 32])),
        )
        .unwrap()
}

#[test]
fn generations_follow_each_other_over_midnight_and_over_signers() {
    let sealed = state(&sealer());
    let first = sealer()
        .next(None, now(), binding(), 1, &sealed, |site| {
            (*site == [5; 32]).then_some(None)
        })
        .unwrap();
    let later = now() + Duration::from_secs(80_000);
    let second = sealer()
        .next(None, later, binding(), 2, &first.state, |_| Some(None))
        .unwrap();
    assert_ne!(
        first.key.key.expose_secret(),
        second.key.key.expose_secret()
    );
    assert_eq!((first.key.seq, second.key.seq), (0, 0));
    assert_eq!(second.facts, facts());
}

#[test]
fn the_ratchet_is_the_standards() {
    // HKDF-Expand-Label written out: one block of HMAC over the label and a counter.
    let label = [&[0, 32, 17][..], b"tls13 traffic upd", &[0, 1]].concat();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[9; 32]);
    let next = aws_lc_rs::hmac::sign(&key, &label);
    let expected = SessionKey::from_traffic_secret(
        AeadAlgorithm::Aes128Gcm,
        HashAlgorithm::Sha256,
        &Secret::copy_from(next.as_ref()),
    );
    let made = sealer()
        .next(None, now(), binding(), 1, &state(&sealer()), |_| Some(None))
        .unwrap();
    assert_eq!(made.key.key.expose_secret(), expected.key.expose_secret());
    assert_eq!(made.key.iv.expose_secret(), expected.iv.expose_secret());
}

#[test]
fn a_state_serves_only_what_it_was_sealed_for() {
    let sealed = state(&sealer());
    let open = |binding, generation, at, allowed: bool| {
        sealer()
            .next(None, at, binding, generation, &sealed, |_| {
                allowed.then_some(None)
            })
            .err()
    };
    let other = RekeyBinding {
        connection: &[4; 32],
        ..binding()
    };
    assert!(matches!(
        open(other, 1, now(), true),
        Some(RekeyError::Unopened)
    ));
    let other = RekeyBinding {
        proxy: "spiffe://example.org/proxy/b",
        ..binding()
    };
    assert!(matches!(
        open(other, 1, now(), true),
        Some(RekeyError::Unopened)
    ));
    let other = RekeyBinding {
        direction: Direction::Read,
        ..binding()
    };
    assert!(matches!(
        open(other, 1, now(), true),
        Some(RekeyError::Unopened)
    ));
    assert!(matches!(
        open(binding(), 2, now(), true),
        Some(RekeyError::Generation)
    ));
    assert!(matches!(
        open(binding(), 0, now(), true),
        Some(RekeyError::Generation)
    ));
    assert!(matches!(
        open(binding(), 1, facts().not_after, true),
        Some(RekeyError::Expired)
    ));
    assert!(matches!(
        open(binding(), 1, now() - Duration::from_secs(600), true),
        Some(RekeyError::Expired)
    ));
    assert!(matches!(
        open(binding(), 1, now(), false),
        Some(RekeyError::Denied)
    ));
    let stranger = Sealer::new(SealKey::generate().unwrap());
    let opened = stranger.next(None, now(), binding(), 1, &sealed, |_| Some(None));
    assert!(matches!(opened, Err(RekeyError::Unopened)));
}

#[test]
fn every_altered_bit_and_every_truncation_is_refused() {
    let sealed = state(&sealer());
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1;
        assert!(
            sealer()
                .next(None, now(), binding(), 1, &altered, |_| Some(None))
                .is_err(),
            "{at}"
        );
        assert!(
            sealer()
                .next(None, now(), binding(), 1, &sealed[..at], |_| Some(None))
                .is_err(),
            "{at}"
        );
    }
}

#[test]
fn a_state_of_a_token_opens_nowhere_else() {
    let mut sealed = state(&sealer());
    assert!(!Sealer::needs_token(&sealed));
    sealed[0] = FORMAT_TOKEN;
    assert!(Sealer::needs_token(&sealed));
    let opened = sealer().next(None, now(), binding(), 1, &sealed, |_| Some(None));
    assert!(matches!(opened, Err(RekeyError::NoVault)));
    let opened = sealer().next(None, now(), binding(), 1, &sealed, |_| None);
    assert!(matches!(opened, Err(RekeyError::Denied)));
}

#[test]
fn a_short_site_secret_is_refused() {
    assert!(SealKey::new(&Secret::new(vec![7; 31])).is_none());
}
