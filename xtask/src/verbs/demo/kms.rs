//! `cargo xtask demo --kms`: managed keys, from the ceremony to the revocation, before one's eyes.
//!
//! Central, three signers in three regions with a token each, two proxies. Each sentence of the story is proven by what
//! a client sees; an operator's part is done by `signer-admin` as the manual says. What it starts ends with it.

use std::{fs, net::SocketAddr, thread, time::Duration};

use keyhaven_xtask::{
    Error, backend,
    cargo::Programs,
    client::{Client, Version},
    command,
    daemon::Daemon,
    interrupt::Interrupt,
    packages,
    say::{self, step},
    site::{Folder, Kms, SOFTHSM2},
};

use super::Options;

/// Sites with their regions.
const SITES: &[(&str, &str)] = &[
    ("frankfurt", "eu"),
    ("new-york", "us"),
    ("singapore", "asia"),
];
/// Proxies with the site that each knows to begin with.
const PROXIES: &[(&str, usize, u16)] = &[("edge-1", 0, 8443), ("edge-2", 1, 8444)];
const HOST: &str = "shop.keyhaven.test";

/// Everything that runs; ends in this order.
struct Running {
    proxies: Vec<(Daemon, SocketAddr)>,
    signers: Vec<Daemon>,
    central: Option<Daemon>,
}

/// Runs the demo.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> Result<(), Error> {
    for kind in SOFTHSM2.kinds() {
        step(kind.as_str(), || kind.provide(interrupt))?;
    }
    let programs = step("build the programs", || {
        packages::ensure(packages::PROTOC, interrupt)?;
        Programs::build_kms(options.release, interrupt)
    })?;
    let folder = Folder::take(&options.dir)?;
    let kms = step(
        "tokens, identities, and the ceremony at central's token",
        || {
            let kms = Kms::prepare(&folder, &programs, SITES, interrupt)?;
            say::line(
                "central's token has the key that signs records, root keys, and a pool of class keys",
            );
            Ok(kms)
        },
    )?;
    let mut running = Running {
        proxies: Vec::new(),
        signers: Vec::new(),
        central: None,
    };
    let told = tell(&kms, &mut running, options, interrupt);
    told.inspect_err(|_| show_logs(&running))?;
    if !options.once {
        stay(&kms, &mut running, interrupt)?;
    }
    stop(running)?;
    if options.once {
        say::line("demo: ok");
    }
    Ok(())
}

/// The story.
fn tell(
    kms: &Kms<'_>,
    running: &mut Running,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    step("central, a class of keys, three sites", || {
        begin(kms, running, interrupt)
    })?;
    step("a key is created, replicated, and serves HTTPS", || {
        serve_https(kms, running, options, interrupt)
    })?;
    step("a key signs at every site, and any site verifies", || {
        sign_everywhere(kms, interrupt)
    })?;
    step("who can sign with it, fastest first", || {
        let found = kms.shown("shop.toml", &["lookup", "orders", "--op", "sign"])?;
        say::line(found.trim_end());
        Ok(())
    })?;
    step("central stops, and everything goes on", || {
        without_central(kms, running, interrupt)
    })?;
    step("both keys are rotated", || rotate(kms, running, interrupt))?;
    step("the signing key is revoked", || revoke(kms))?;
    step("at a glance", || {
        say::line(kms.shown("alice.toml", &["kms", "status"])?.trim_end());
        Ok(())
    })
}

fn begin(kms: &Kms<'_>, running: &mut Running, interrupt: &Interrupt) -> Result<(), Error> {
    let central = kms.start_central(interrupt)?;
    say::line(format!(
        "central    {}, process {}",
        kms.central,
        central.pid()
    ));
    running.central = Some(central);
    let mut create = vec!["kms", "class", "create", "everywhere", "--bound", "30s"];
    for (_, region) in SITES {
        create.extend(["--region", region]);
    }
    create.extend(["--purpose", "handshake", "--purpose", "sign"]);
    kms.admin("alice.toml", &create)?;
    for site in &kms.sites {
        interrupt.check()?;
        kms.enroll(site, &["everywhere"])?;
        kms.write_site(site)?;
        let signer = kms.start_site(site, interrupt)?;
        say::line(format!(
            "{:<10} {} in {}, process {}",
            site.name,
            site.address,
            site.region,
            signer.pid()
        ));
        running.signers.push(signer);
    }
    Ok(())
}

fn serve_https(
    kms: &Kms<'_>,
    running: &mut Running,
    options: &Options,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    kms.admin(
        "alice.toml",
        &[
            "kms",
            "key",
            "create",
            "shop",
            "--kind",
            "ec-p256",
            "--purpose",
            "handshake",
            "--class",
            "everywhere",
            "--server-name",
            HOST,
        ],
    )?;
    certify(kms)?;
    let backend = match options.backend {
        Some(backend) => backend,
        None => backend::start()?,
    };
    for (name, first, port) in PROXIES {
        let identity = kms.identity("proxy", name)?;
        kms.admin(
            "alice.toml",
            &[
                "kms",
                "grant",
                "set",
                &identity,
                "--key",
                "shop",
                "--op",
                "handshake",
            ],
        )?;
        // Only the rehearsal must not mind who has the usual ports.
        let port = if options.once { 0 } else { *port };
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        kms.write_proxy(name, listen, backend, &kms.sites[*first])?;
        let mut proxy = kms.start_proxy(name, interrupt)?;
        let address = proxy.wait_listening(interrupt)?;
        running.proxies.push((proxy, address));
    }
    for (number, (_, address)) in running.proxies.iter().enumerate() {
        let answer = get(kms, *address, interrupt, |_| true)?;
        say::line(format!(
            "https://{HOST}/ by {}: {}",
            PROXIES[number].0,
            answer.text.lines().next().unwrap_or_default()
        ));
    }
    Ok(())
}

/// A certificate for the current version of `shop`; it travels with the key.
fn certify(kms: &Kms<'_>) -> Result<(), Error> {
    let request = kms.folder.kms("shop.csr");
    let path = request.display().to_string();
    kms.admin("alice.toml", &["kms", "key", "csr", "shop", "--out", &path])?;
    let chain = kms.certify(&request, &[HOST])?;
    let chain = chain.display().to_string();
    kms.admin("alice.toml", &["kms", "key", "chain", "shop", &chain])?;
    Ok(())
}

fn sign_everywhere(kms: &Kms<'_>, interrupt: &Interrupt) -> Result<(), Error> {
    kms.admin(
        "alice.toml",
        &[
            "kms",
            "key",
            "create",
            "orders",
            "--kind",
            "ec-p256",
            "--purpose",
            "sign",
            "--class",
            "everywhere",
        ],
    )?;
    let identity = kms.identity("client", "shop")?;
    kms.admin(
        "alice.toml",
        &[
            "kms", "grant", "set", &identity, "--key", "orders", "--op", "sign", "--op", "verify",
        ],
    )?;
    kms.write_client("shop.toml", "client-shop")?;
    let message = kms.folder.kms("order.txt");
    fs::write(&message, "one lamp, two chairs\n").map_err(|source| Error::File {
        act: "write",
        path: message.clone(),
        source,
    })?;
    let message = message.display().to_string();
    for (number, site) in kms.sites.iter().enumerate() {
        let file = format!("at-{}.toml", site.name);
        kms.write_client_of(&file, "client-shop", site)?;
        let signature = kms.folder.kms(&format!("order-{}.sig", site.name));
        let signature = signature.display().to_string();
        let sign = [
            "sign",
            "orders",
            "--scheme",
            "ecdsa_secp256r1_sha256",
            "--in",
            &message,
            "--out",
            &signature,
        ];
        until(interrupt, || kms.shown(&file, &sign).map(drop))?;
        let next = &kms.sites[(number + 1) % kms.sites.len()];
        let other = format!("at-{}.toml", next.name);
        kms.write_client_of(&other, "client-shop", next)?;
        let verify = [
            "verify",
            "orders",
            "--scheme",
            "ecdsa_secp256r1_sha256",
            "--in",
            &message,
            "--signature",
            &signature,
        ];
        until(interrupt, || kms.shown(&other, &verify).map(drop))?;
        say::line(format!(
            "signed in {}, verified in {}",
            site.name, next.name
        ));
    }
    Ok(())
}

fn without_central(
    kms: &Kms<'_>,
    running: &mut Running,
    interrupt: &Interrupt,
) -> Result<(), Error> {
    if let Some(central) = running.central.take() {
        central.stop(STOP_GRACE)?;
    }
    for (_, address) in &running.proxies {
        get(kms, *address, interrupt, |_| true)?;
    }
    let message = kms.folder.kms("order.txt").display().to_string();
    let out = kms.folder.kms("order.sig").display().to_string();
    let sign = [
        "sign",
        "orders",
        "--scheme",
        "ecdsa_secp256r1_sha256",
        "--in",
        &message,
        "--out",
        &out,
    ];
    kms.shown("shop.toml", &sign)?;
    say::line("HTTPS and signing go on without it");
    running.central = Some(kms.start_central(interrupt)?);
    Ok(())
}

fn rotate(kms: &Kms<'_>, running: &Running, interrupt: &Interrupt) -> Result<(), Error> {
    let (_, address) = running.proxies[0];
    let old = get(kms, address, interrupt, |_| true)?.leaf;
    for key in ["shop", "orders"] {
        until(interrupt, || {
            kms.admin("alice.toml", &["kms", "key", "rotate", key])
                .map(drop)
        })?;
    }
    certify(kms)?;
    for (_, address) in &running.proxies {
        get(kms, *address, interrupt, |leaf| leaf != old)?;
    }
    say::line(
        "new connections get the new certificate; what the old key signed is still verified by version 1",
    );
    let message = kms.folder.kms("order.txt").display().to_string();
    let signature = kms.folder.kms("order-frankfurt.sig").display().to_string();
    let verify = [
        "verify",
        "orders",
        "--scheme",
        "ecdsa_secp256r1_sha256",
        "--version",
        "1",
        "--in",
        &message,
        "--signature",
        &signature,
    ];
    kms.shown("shop.toml", &verify).map(drop)
}

fn revoke(kms: &Kms<'_>) -> Result<(), Error> {
    kms.admin(
        "alice.toml",
        &["kms", "key", "revoke", "orders", "--yes", "--wait"],
    )?;
    let message = kms.folder.kms("order.txt").display().to_string();
    for site in &kms.sites {
        let file = format!("at-{}.toml", site.name);
        let sign = [
            "sign",
            "orders",
            "--scheme",
            "ecdsa_secp256r1_sha256",
            "--in",
            &message,
            "--out",
            "-",
        ];
        if kms.shown(&file, &sign).is_ok() {
            return Err(Error::Output {
                program: format!("signer-admin sign at {}", site.name),
                why: "it signed with a revoked key".to_owned(),
            });
        }
        say::line(format!("{} refuses to sign", site.name));
    }
    Ok(())
}

/// Asks until a whole answer comes whose certificate is accepted: changes travel.
fn get(
    kms: &Kms<'_>,
    address: SocketAddr,
    interrupt: &Interrupt,
    accept: impl Fn(&[u8]) -> bool,
) -> Result<keyhaven_xtask::client::Answer, Error> {
    let ca = fs::read(kms.folder.site_ca()).map_err(|source| Error::File {
        act: "read",
        path: kms.folder.site_ca(),
        source,
    })?;
    let client = Client::new(Version::Tls13, HOST, &ca)?;
    until(interrupt, || {
        let answer = client.get(address, "/")?;
        if accept(&answer.leaf) {
            return Ok(answer);
        }
        Err(Error::Request {
            version: "TLS 1.3",
            why: "the site still shows its old certificate".to_owned(),
        })
    })
}

/// Tries for a while: a key takes a moment from central to the sites.
fn until<T>(
    interrupt: &Interrupt,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let deadline = std::time::Instant::now() + TRAVEL_TIMEOUT;
    loop {
        interrupt.check()?;
        match attempt() {
            Err(_) if std::time::Instant::now() < deadline => thread::sleep(LOOK_AGAIN),
            other => return other,
        }
    }
}

fn stay(kms: &Kms<'_>, running: &mut Running, interrupt: &Interrupt) -> Result<(), Error> {
    let folder = kms.folder.kms_dir();
    let folder = folder.display();
    say::line("\nTry it:");
    say::line(format!("  export KEYHAVEN_CLIENT={folder}/alice.toml"));
    for line in [
        "kms status",
        "kms key list",
        "kms site list",
        "kms key rotate shop",
    ] {
        say::line(format!("  target/debug/signer-admin {line}"));
    }
    let ca = kms.folder.site_ca();
    for (_, address) in &running.proxies {
        say::line(format!(
            "  curl --cacert {} --resolve {HOST}:{}:127.0.0.1 https://{HOST}:{}/",
            ca.display(),
            address.port(),
            address.port()
        ));
    }
    say::line(format!(
        "  configurations: {folder}; logs: {}",
        kms.folder.log("").display()
    ));
    say::line("\nCtrl-C stops everything.");
    while !interrupt.raised() {
        for daemon in running.all() {
            daemon.check()?;
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

impl Running {
    fn all(&mut self) -> impl Iterator<Item = &mut Daemon> {
        let proxies = self.proxies.iter_mut().map(|(proxy, _)| proxy);
        proxies.chain(&mut self.signers).chain(&mut self.central)
    }
}

fn stop(running: Running) -> Result<(), Error> {
    for (proxy, _) in running.proxies {
        proxy.stop(STOP_GRACE)?;
    }
    for signer in running.signers {
        signer.stop(STOP_GRACE)?;
    }
    if let Some(central) = running.central {
        central.stop(STOP_GRACE)?;
    }
    say::line("\nstopped");
    Ok(())
}

/// What the daemons said last, for a failure that is theirs.
fn show_logs(running: &Running) {
    let signers = running
        .signers
        .iter()
        .zip(SITES)
        .map(|(d, (name, _))| (d, *name));
    let proxies = running
        .proxies
        .iter()
        .zip(PROXIES)
        .map(|((d, _), (name, ..))| (d, *name));
    let central = running.central.iter().map(|d| (d, "central"));
    for (daemon, name) in central.chain(signers).chain(proxies) {
        let tail = command::last_lines(&daemon.log_text(), 6);
        say::line(format!("---- {name}'s log, last lines ----\n{tail}"));
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a change may take from central to every site and proxy on a slow machine.
const TRAVEL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than the daemons' own grace.
const STOP_GRACE: Duration = Duration::from_secs(15);
