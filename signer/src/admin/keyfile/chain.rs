//! Puts the certificates of a file in order: the key's own first, then each one's issuer.
//!
//! Compares public keys and names; signatures and dates are judged by whoever uses the chain. Invariant: no
//! certificate is lost: those that are no part of the chain are counted.

use x509_parser::parse_x509_certificate;

/// The chain of the key with this SubjectPublicKeyInfo, and how many certificates were left out. `None`: no
/// certificate is the key's. A self-signed root at the end is left out too, for clients have it.
pub fn order_chain(spki: &[u8], certificates: &[Vec<u8>]) -> Option<(Vec<Vec<u8>>, usize)> {
    let parsed: Vec<_> = certificates
        .iter()
        .filter_map(|der| match parse_x509_certificate(der) {
            Ok(([], certificate)) => Some((der, certificate)),
            _ => None,
        })
        .collect();
    let leaf = parsed
        .iter()
        .find(|(_, certificate)| certificate.public_key().raw == spki)?;
    let mut chain = vec![leaf];
    while let Some((_, last)) = chain.last() {
        let issuer = parsed.iter().find(|(der, certificate)| {
            certificate.subject().as_raw() == last.issuer().as_raw()
                && !chain.iter().any(|(known, _)| known == der)
        });
        match issuer {
            Some(issuer) => chain.push(issuer),
            None => break,
        }
    }
    let is_root = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
        certificate.subject().as_raw() == certificate.issuer().as_raw()
    };
    if chain.len() > 1 && chain.last().is_some_and(|(_, last)| is_root(last)) {
        chain.pop();
    }
    let left_out = certificates.len() - chain.len();
    let chain = chain.into_iter().map(|(der, _)| (*der).clone()).collect();
    Some((chain, left_out))
}
