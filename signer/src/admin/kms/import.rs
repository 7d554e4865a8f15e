//! `kms key import` and `kms key transport`: a key into central's token, never in the clear outside of this process.
//!
//! A file's key is encrypted here to a transport key of central's token; another HSM does that by itself. Invariant: what
//! leaves is ciphertext, and what was read is wiped.

use std::path::Path;

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrapPadded as _},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use keyhaven_types::{KeyAlgorithm, KeyKind, Provenance, Purpose};
use keyhaven_wire::kms::admin::{Answer, Ask, Import, NewKey};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    committed::{other_answer, report},
    files, pkcs8, public,
    show::pem,
};
use crate::admin::{
    args::kms::{ImportArgs, TransportArgs},
    ask, cert,
    channel::Channel,
    failure::Failure,
    key::{open_to_others, read_bounded, read_key_file},
    keyfile,
    report::Report,
    text,
};

/// A key, ready to be wrapped.
struct Plain {
    kind: KeyKind,
    /// PKCS#8, or a secret's bytes.
    bytes: Zeroizing<Vec<u8>>,
    public: Option<Vec<u8>>,
    /// Whether the file keeps it by a password.
    sealed: bool,
    certificates: Vec<Vec<u8>>,
}

/// Imports a key.
pub(super) fn import(args: &ImportArgs) -> Result<Report, Failure> {
    match (&args.file, &args.wrapped_key) {
        (Some(file), None) => from_file(args, file),
        (None, Some(wrapped)) => from_hsm(args, wrapped),
        _ => Err(Failure::usage(
            "it is not said where the key is",
            "give --file, or --wrapped-kek and --wrapped-key with --transport and --kind",
        )),
    }
}

/// Makes a transport key for another HSM to wrap under.
pub(super) fn transport(args: &TransportArgs) -> Result<Report, Failure> {
    // An older transport key in its place may go; nothing else may.
    if let Some(path) = &args.out
        && public::read(path).is_err()
    {
        files::refuse_existing(path)?;
    }
    let (id, spki) = new_transport(&Channel::new(&args.client)?)?;
    let id = text::hex(&id);
    let pem = pem("PUBLIC KEY", &spki);
    if let Some(path) = &args.out {
        files::write_whole(path, pem.as_bytes(), 0o644)?;
    }
    let shown = match &args.out {
        Some(path) => format!("written to {}\n", path.display()),
        None => pem.clone(),
    };
    Ok(Report::new(
        json!({ "transport": id, "public_key": pem, "sha256": text::sha256(&spki) }),
        format!(
            "transport key {id}, good for one import within ten minutes\n  sha256  {}\n{shown}",
            text::sha256(&spki)
        ),
    ))
}

fn new_transport(channel: &Channel) -> Result<([u8; 16], Vec<u8>), Failure> {
    match channel.ask(&Ask::TransportKey)? {
        Answer::TransportKey { id, spki } => Ok((id, spki)),
        _ => Err(other_answer()),
    }
}

fn from_file(args: &ImportArgs, file: &Path) -> Result<Report, Failure> {
    let plain = read(args, file)?;
    let chain = chain(args, plain.public.as_deref(), &plain.certificates)?;
    // That copies may exist is said by central, which records it.
    if !plain.sealed {
        ask::tell(&format!(
            "warning: {} holds the key in the clear: when it is imported, delete the file or keep it as safe as the key",
            file.display()
        ));
    }
    if let Some(mode) = open_to_others(file) {
        ask::tell(&format!(
            "warning: other users can read {} (mode {mode:04o}): they may have the key",
            file.display()
        ));
    }
    let channel = Channel::new(&args.client)?;
    let (transport, spki) = new_transport(&channel)?;
    let (wrapped_kek, wrapped_key) = wrap(&spki, &plain.bytes).ok_or_else(|| {
        Failure::new(
            "the key cannot be encrypted to central's transport key",
            "is central of the same version?",
        )
    })?;
    let import = Import {
        key: new_key(args, plain.kind),
        transport,
        wrapped_kek,
        wrapped_key,
        public: plain.public,
        provenance: Provenance::ImportedFile,
        chain,
    };
    drop(plain.bytes);
    done(&channel, import)
}

fn from_hsm(args: &ImportArgs, wrapped: &Path) -> Result<Report, Failure> {
    let (Some(kek), Some(transport), Some(kind)) = (&args.wrapped_kek, &args.transport, args.kind)
    else {
        return Err(Failure::usage(
            "a wrapped key needs --wrapped-kek, --transport and --kind",
            "signer-admin kms key transport makes the transport key and prints its id",
        ));
    };
    let id = text::parse_id(transport).and_then(|id| id.try_into().ok());
    let transport = id.ok_or_else(|| {
        Failure::usage(
            "--transport is no id",
            "give it as kms key transport printed it",
        )
    })?;
    let public = args.public.as_deref().map(public::read).transpose()?;
    if kind.is_pair() && public.is_none() {
        return Err(Failure::usage(
            format!("a wrapped key of kind {kind} needs its public key"),
            "give --public FILE: central compares it with what it has unwrapped",
        ));
    }
    let chain = chain(args, public.as_deref(), &[])?;
    let import = Import {
        key: new_key(args, kind),
        transport,
        wrapped_kek: files::read_bounded(kek)?,
        wrapped_key: files::read_bounded(wrapped)?,
        public,
        provenance: Provenance::ImportedWrapped,
        chain,
    };
    done(&Channel::new(&args.client)?, import)
}

fn done(channel: &Channel, import: Import) -> Result<Report, Failure> {
    let name = import.key.name.clone();
    let answer = channel.ask(&Ask::KeyImport(import))?;
    report(answer, &format!("key `{name}` is imported"))
}

fn new_key(args: &ImportArgs, kind: KeyKind) -> NewKey {
    NewKey {
        name: args.name.clone(),
        kind,
        purpose: args.place.purpose,
        class: args.place.class.clone(),
        server_names: args.place.server_names.clone(),
    }
}

/// Certificates of the key, leaf first: those of `--chain`, or those that lie beside it.
fn chain(
    args: &ImportArgs,
    public: Option<&[u8]>,
    beside: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, Failure> {
    let certified = args.place.purpose == Purpose::Handshake;
    let Some(public) = public.filter(|_| certified) else {
        return match &args.chain {
            None => Ok(Vec::new()),
            Some(_) => Err(Failure::usage(
                "only a key with the purpose handshake has certificates",
                "leave --chain out",
            )),
        };
    };
    match &args.chain {
        None => Ok(keyfile::order_chain(public, beside).map_or_else(Vec::new, |(chain, _)| chain)),
        Some(path) => {
            let found = keyfile::order_chain(public, &cert::read_file(path)?);
            found.map(|(chain, _)| chain).ok_or_else(|| {
                Failure::new(
                    format!("no certificate in {} is for this key", path.display()),
                    "give the certificate that was issued for it",
                )
            })
        }
    }
}

fn read(args: &ImportArgs, path: &Path) -> Result<Plain, Failure> {
    if let Some(kind) = args.kind.filter(|kind| !kind.is_pair()) {
        let bytes = read_bounded(path)?;
        if bytes.len() != SECRET_LEN {
            return Err(Failure::new(
                format!("{} has {} bytes", path.display(), bytes.len()),
                format!("a key of kind {kind} is a file of {SECRET_LEN} bytes"),
            ));
        }
        return Ok(Plain {
            kind,
            bytes,
            public: None,
            sealed: false,
            certificates: Vec::new(),
        });
    }
    let file = read_key_file(path, || {
        let of = path.display().to_string();
        ask::secret("password", &of, "--pass-file", args.pass_file.as_deref())
    })?;
    let kind = kind_of(file.key.algorithm()).ok_or_else(|| {
        Failure::new(
            format!("{} holds an {} key", path.display(), file.key.algorithm()),
            "managed RSA keys have 2048, 3072 or 4096 bits",
        )
    })?;
    if args.kind.is_some_and(|wanted| wanted != kind) {
        return Err(Failure::new(
            format!("{} holds a key of kind {kind}", path.display()),
            "leave --kind out, or give the right file",
        ));
    }
    Ok(Plain {
        kind,
        bytes: pkcs8::encode(&file.key),
        public: Some(file.key.spki()),
        sealed: file.sealed,
        certificates: file.certificates,
    })
}

fn kind_of(algorithm: KeyAlgorithm) -> Option<KeyKind> {
    KeyKind::ALL
        .iter()
        .find(|kind| kind.algorithm() == Some(algorithm))
        .copied()
}

/// An AES-256 key under the transport key (RSA-OAEP with SHA-1, which every module has), and the key under that by
/// AES-KWP (RFC 5649).
fn wrap(transport: &[u8], key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut kek = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *kek).ok()?;
    let public = PublicEncryptingKey::from_der(transport).ok()?;
    let public = OaepPublicEncryptingKey::new(public).ok()?;
    let mut wrapped_kek = vec![0; public.ciphertext_size()];
    let len = public
        .encrypt(&OAEP_SHA1_MGF1SHA1, &*kek, &mut wrapped_kek, None)
        .ok()?
        .len();
    wrapped_kek.truncate(len);
    let kek = AesKek::new(&AES_256, &*kek).ok()?;
    let mut wrapped_key = vec![0; key.len() + 16];
    let len = kek.wrap_with_padding(key, &mut wrapped_key).ok()?.len();
    wrapped_key.truncate(len);
    Some((wrapped_kek, wrapped_key))
}

/// Bytes of an AES-256 or HMAC key.
const SECRET_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer as _, PublicKeyX509Der},
        rsa::{KeySize, OaepPrivateDecryptingKey, PrivateDecryptingKey},
    };

    use super::*;

    #[test]
    fn what_is_wrapped_opens_to_the_key_and_is_never_the_same_twice() {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
        let spki: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let key = [7; 138];
        let (wrapped_kek, wrapped_key) = wrap(spki.as_ref(), &key).unwrap();
        assert!(!wrapped_key.windows(8).any(|window| window == [7; 8]));

        let private = OaepPrivateDecryptingKey::new(private).unwrap();
        let mut kek = vec![0; private.min_output_size()];
        let kek = private
            .decrypt(&OAEP_SHA1_MGF1SHA1, &wrapped_kek, &mut kek, None)
            .unwrap();
        let mut opened = vec![0; wrapped_key.len()];
        let opened = AesKek::new(&AES_256, kek)
            .unwrap()
            .unwrap_with_padding(&wrapped_key, &mut opened)
            .unwrap();
        assert_eq!(opened, key);
        assert_ne!(wrap(spki.as_ref(), &key).unwrap().1, wrapped_key);
        assert!(wrap(b"no key", &key).is_none());
    }
}
