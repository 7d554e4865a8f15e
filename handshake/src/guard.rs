//! The guard before each signature: a handshake key signs handshakes, and only the one that is running.
//!
//! It sees the message before it is hashed, and lets through a TLS 1.3 CertificateVerify (RFC 8446, section
//! 4.4.3) or a TLS 1.2 ServerKeyExchange with this handshake's own randoms and public value (RFC 8422,
//! section 5.4). One signature a handshake.

use crate::context::Context;

/// Checks a message and uses up the handshake's one signature; the error says what is wrong with it.
pub(crate) fn admit(context: &mut Context, message: &[u8]) -> Result<(), &'static str> {
    if std::mem::replace(&mut context.signed, true) {
        return Err("a second signature in one handshake");
    }
    if context.facts.is_tls13 {
        certificate_verify(message)
    } else {
        server_key_exchange(context, message)
    }
}

fn certificate_verify(message: &[u8]) -> Result<(), &'static str> {
    let hash = message
        .strip_prefix(&[0x20; 64])
        .and_then(|rest| rest.strip_prefix(b"TLS 1.3, server CertificateVerify\0"))
        .ok_or("not a TLS 1.3 CertificateVerify")?;
    if !matches!(hash.len(), 32 | 48) {
        return Err("a CertificateVerify with an odd transcript hash");
    }
    Ok(())
}

fn server_key_exchange(context: &Context, message: &[u8]) -> Result<(), &'static str> {
    let (client_random, rest) = message
        .split_at_checked(32)
        .ok_or("a short ServerKeyExchange")?;
    let (server_random, params) = rest
        .split_at_checked(32)
        .ok_or("a short ServerKeyExchange")?;
    if client_random != context.facts.client_random {
        return Err("a ServerKeyExchange with another client's random");
    }
    if !context
        .randoms
        .iter()
        .any(|ours| is_server_random(ours, server_random))
    {
        return Err("a ServerKeyExchange with a random that is not ours");
    }
    let (group, point) = context
        .public_value
        .as_ref()
        .ok_or("a ServerKeyExchange without an exchange")?;
    let length = u8::try_from(point.len()).map_err(|_| "an oversize public value")?;
    let expected = [&[NAMED_CURVE][..], &group.to_be_bytes(), &[length], point].concat();
    if params != expected {
        return Err("a ServerKeyExchange with a public value that is not ours");
    }
    Ok(())
}

/// Equal, or equal but for the downgrade sentinel that replaces the last 8 bytes (RFC 8446, section 4.1.3).
fn is_server_random(drawn: &[u8; 32], sent: &[u8]) -> bool {
    sent == drawn || (sent[..24] == drawn[..24] && sent[24..] == *b"DOWNGRD\x01")
}

const NAMED_CURVE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Facts;

    fn context(is_tls13: bool) -> Context {
        let mut context = Context::new(Facts {
            client_random: [1; 32],
            is_tls13,
            ..Facts::default()
        });
        context.randoms.push([2; 32]);
        context.public_value = Some((0x17, vec![4; 65]));
        context
    }

    fn verify(hash_len: usize) -> Vec<u8> {
        [
            &[0x20; 64][..],
            b"TLS 1.3, server CertificateVerify\0",
            &vec![9; hash_len],
        ]
        .concat()
    }

    fn key_exchange(client: u8, server: [u8; 32], point: u8) -> Vec<u8> {
        [&[client; 32][..], &server, &[3, 0, 0x17, 65], &[point; 65]].concat()
    }

    #[test]
    fn s10_only_this_handshakes_messages_are_signed() {
        assert_eq!(admit(&mut context(true), &verify(32)), Ok(()));
        assert_eq!(admit(&mut context(true), &verify(48)), Ok(()));
        assert_eq!(
            admit(&mut context(false), &key_exchange(1, [2; 32], 4)),
            Ok(())
        );
        let mut sentinel = [2; 32];
        sentinel[24..].copy_from_slice(b"DOWNGRD\x01");
        assert_eq!(
            admit(&mut context(false), &key_exchange(1, sentinel, 4)),
            Ok(())
        );
    }

    #[test]
    fn s10_anything_else_is_refused() {
        let client = [
            &[0x20; 64][..],
            b"TLS 1.3, client CertificateVerify\0",
            &[9; 32],
        ]
        .concat();
        for (is_tls13, message) in [
            (true, verify(33)),
            (true, verify(0)),
            (true, client),
            (true, verify(32)[1..].to_vec()),
            (true, key_exchange(1, [2; 32], 4)),
            (true, vec![]),
            (false, verify(32)),
            (false, key_exchange(7, [2; 32], 4)),
            (false, key_exchange(1, [7; 32], 4)),
            (false, key_exchange(1, [2; 32], 7)),
            (false, key_exchange(1, [2; 32], 4)[..100].to_vec()),
            (false, [key_exchange(1, [2; 32], 4), vec![0]].concat()),
            (false, vec![]),
        ] {
            assert!(
                admit(&mut context(is_tls13), &message).is_err(),
                "{is_tls13} {message:x?}"
            );
        }
    }

    #[test]
    fn s10_a_handshake_signs_once() {
        let mut context = context(true);
        assert_eq!(admit(&mut context, &verify(32)), Ok(()));
        assert!(admit(&mut context, &verify(32)).is_err());
    }
}
