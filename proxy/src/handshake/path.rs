//! Which answer of a signer may follow which, so that keys come at the right moment or not at all.
//!
//! No I/O. TLS 1.3 keys come behind the Finished-lock, or after a flight that the signer has verified itself; TLS 1.2
//! keys only after the client's Finished. Every other order is the signer's error (see `PROTOCOL.md`, "Replies").

use keyhaven_types::TlsVersion;
use keyhaven_wire::{Expect, Next};

/// The flight that was asked for last.
#[derive(Debug, Default)]
pub(super) struct Path(Option<Expect>);

impl Path {
    /// Takes the next answer, or says what is wrong with it.
    pub(super) fn follow(&mut self, next: &Next) -> Result<(), &'static str> {
        use Expect::{ClientFlight, ClientHello, Finished, KeyExchange};
        use TlsVersion::{Tls12, Tls13};

        match (self.0, next) {
            (_, Next::Refused { .. }) | (None | Some(ClientHello), Next::Locked(_)) => Ok(()),
            (_, Next::Locked(_)) => Err("a lock where the client has no Finished left"),
            (last, Next::More(expect)) => {
                let may_follow = match last {
                    None => true,
                    Some(ClientHello) => *expect != ClientHello,
                    Some(last) => *expect == last,
                };
                if !may_follow {
                    return Err("it wants a flight that cannot come");
                }
                self.0 = Some(*expect);
                Ok(())
            }
            (last, Next::Open(established)) => match (last, established.version) {
                (Some(ClientFlight), Tls13) | (Some(KeyExchange | Finished), Tls12) => Ok(()),
                (_, Tls13) => Err("TLS 1.3 keys outside the lock"),
                (_, Tls12) => Err("TLS 1.2 keys before the client's Finished"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyhaven_types::{AeadAlgorithm, CustodyLevel, Secret};
    use keyhaven_wire::{ConnectionId, Established, Locked, TrafficKey};

    fn key() -> TrafficKey {
        TrafficKey {
            aead: AeadAlgorithm::Aes128Gcm,
            key: Secret::new(vec![1; 16]),
            iv: Secret::new(vec![1; 12]),
            seq: 0,
        }
    }

    fn open(version: TlsVersion) -> Next {
        Next::Open(Box::new(Established {
            connection: ConnectionId([1; 32]),
            version,
            suite: 0x1301,
            write: key(),
            read: key(),
            rekey_write: Vec::new(),
            rekey_read: Vec::new(),
            lifetime_s: 60,
            server_name: String::new(),
            alpn: None,
            level: CustodyLevel::Schedule,
            tickets: Vec::new(),
            resumed: false,
            client: None,
        }))
    }

    fn locked() -> Next {
        Next::Locked(Locked {
            handshake_read: key(),
            verify_data_len: 32,
            sealed_box: vec![0; 17],
        })
    }

    /// Every answer by a name of its own.
    fn answer(name: &str) -> Next {
        match name {
            "hello" => Next::More(Expect::ClientHello),
            "exchange" => Next::More(Expect::KeyExchange),
            "flight" => Next::More(Expect::ClientFlight),
            "finished" => Next::More(Expect::Finished),
            "locked" => locked(),
            "open 1.2" => open(TlsVersion::Tls12),
            "open 1.3" => open(TlsVersion::Tls13),
            _ => Next::Refused { alert: 40 },
        }
    }

    const ANSWERS: [&str; 8] = [
        "hello", "exchange", "flight", "finished", "locked", "open 1.2", "open 1.3", "refused",
    ];

    #[test]
    fn each_answer_has_its_place_and_no_other() {
        let any_flight = &["exchange", "flight", "finished", "locked", "refused"][..];
        for (before, allowed) in [
            (&[][..], &[&["hello"], any_flight].concat()[..]),
            (&["hello"], any_flight),
            (&["exchange"], &["exchange", "open 1.2", "refused"]),
            (&["hello", "exchange"], &["exchange", "open 1.2", "refused"]),
            (&["flight"], &["flight", "open 1.3", "refused"]),
            (
                &["hello", "flight", "flight"],
                &["flight", "open 1.3", "refused"],
            ),
            (&["finished"], &["finished", "open 1.2", "refused"]),
        ] {
            for next in ANSWERS {
                let mut path = Path::default();
                for before in before {
                    path.follow(&answer(before)).unwrap();
                }
                let is_followed = path.follow(&answer(next)).is_ok();
                assert_eq!(is_followed, allowed.contains(&next), "{before:?} {next}");
            }
        }
    }
}
