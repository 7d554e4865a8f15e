//! `cargo xtask demo`: a fresh machine to a working HTTPS site on a key in a token.
//!
//! Tells a story and proves each sentence of it by a request. What it starts ends with it, on every path.

mod custody;
pub(crate) mod kms;
mod requests;
mod resumption;

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    thread,
    time::Duration,
};

use keyhaven_xtask::{
    Error, backend,
    cargo::Programs,
    command,
    interrupt::Interrupt,
    say::{self, step},
    site::{self, Algorithm, Folder, Row, Running, SERVER_NAME, SiteOptions, Tickets, Tokens},
};

use requests::{Backend, curl_arguments, shell_line};

/// What the user chose.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) once: bool,
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) backend: Option<SocketAddr>,
    pub(crate) algorithm: Algorithm,
    pub(crate) release: bool,
}

/// Runs the demo on SoftHSM2.
pub(crate) fn run(options: &Options, interrupt: &Interrupt) -> Result<(), Error> {
    run_on(site::SOFTHSM2, options, interrupt)
}

/// Runs the demo on the modules of a row.
pub(crate) fn run_on(row: Row, options: &Options, interrupt: &Interrupt) -> Result<(), Error> {
    check_free(options.listen)?;
    for kind in row.kinds() {
        step(kind.as_str(), || kind.provide(interrupt))?;
    }
    let programs = step("build signer, signer-admin and proxy", || {
        Programs::build(options.release, interrupt)
    })?;
    let folder = Folder::take(&options.dir)?;
    let tokens = step("token, key and certificates", || {
        prepare(row, options, &folder, &programs, interrupt)
    })?;
    let site = configure(row, options, &folder, &tokens)?;
    step("custody", || {
        custody::prove(&programs, &folder, &tokens, row)
    })?;
    let mut running = step("start", || {
        start(&site, &folder, &programs, &tokens, interrupt)
    })?;
    let answering = match options.backend {
        None => Backend::BuiltIn,
        Some(_) => Backend::Users,
    };
    step("requests", || {
        let ca = requests::make(&running, &folder, answering, interrupt)?;
        resumption::check(&running, &folder, &ca, interrupt)?;
        custody::check(&mut running, row, interrupt)
    })
    .inspect_err(|_| show_logs(&running))?;
    describe(&running, &folder, &tokens, row);
    if !options.once {
        stay(&mut running, interrupt)?;
    }
    stop(running)?;
    if options.once {
        drop(tokens);
        say::line("demo: ok");
    }
    Ok(())
}

fn prepare<'a>(
    row: Row,
    options: &Options,
    folder: &Folder,
    programs: &'a Programs,
    interrupt: &Interrupt,
) -> Result<Tokens<'a>, Error> {
    let tokens = Tokens::create(row, folder, programs, options.algorithm, interrupt)?;
    for token in tokens.all() {
        say::line(format!("{:<8} {}", token.name(), token.kind().as_str()));
    }
    site::issue_identities(folder)?;
    site::issue_site_certificate(folder, &tokens.key.signing_request(folder)?)?;
    Ok(tokens)
}

/// Writes the configurations, and starts the backend that they name.
fn configure(
    row: Row,
    options: &Options,
    folder: &Folder,
    tokens: &Tokens<'_>,
) -> Result<SiteOptions, Error> {
    let backend = match options.backend {
        Some(backend) => backend,
        None => backend::start()?,
    };
    let site = SiteOptions {
        signer: signer_address()?,
        listen: options.listen,
        backend,
        custody_min: row.level,
        custody_max: None,
        tickets: Tickets::Tls13,
    };
    site::write_configs(folder, tokens, &site)?;
    Ok(site)
}

fn start(
    site: &SiteOptions,
    folder: &Folder,
    programs: &Programs,
    tokens: &Tokens<'_>,
    interrupt: &Interrupt,
) -> Result<Running, Error> {
    let SiteOptions {
        signer, backend, ..
    } = site;
    let running = Running::start(programs, folder, tokens, interrupt)?;
    say::line(format!("backend  {backend}"));
    say::line(format!(
        "signer   {signer}, process {}",
        running.signer.pid()
    ));
    say::line(format!(
        "proxy    {}, process {}",
        running.address,
        running.proxy.pid()
    ));
    Ok(running)
}

/// What the daemons said last, for a failure that is theirs.
fn show_logs(running: &Running) {
    for (name, daemon) in [("signer", &running.signer), ("proxy", &running.proxy)] {
        let tail = command::last_lines(&daemon.log_text(), 8);
        say::line(format!("---- {name}'s log, last lines ----\n{tail}"));
    }
}

fn describe(running: &Running, folder: &Folder, tokens: &Tokens<'_>, row: Row) {
    let address = running.address;
    say::line(format!("\ncustody: {}", row.level));
    for line in custody::kept(row.level, tokens) {
        say::line(line);
    }
    say::line("\nTry it:");
    say::line(format!(
        "  curl {}",
        shell_line(&curl_arguments(running, folder))
    ));
    say::line(format!(
        "  openssl s_client -connect {address} -servername {SERVER_NAME} -CAfile {} -verify_return_error",
        shell_line(&[folder.site_ca().display().to_string()])
    ));
    say::line(format!(
        "  a browser that trusts the site CA: https://localhost:{}/",
        address.port()
    ));
    say::line("\nWhere things are:");
    let show = |path: PathBuf| path.display().to_string();
    let row = |what: &str, place: String| say::line(format!("  {what:<14} {place}"));
    for token in tokens.all() {
        row(&format!("token `{}`", token.name()), token.uri());
        row("  module", show(token.module()));
        for (name, value) in token.env() {
            let value = value.to_string_lossy().into_owned();
            row("  variable", format!("{name}={}", shell_line(&[value])));
        }
    }
    for (what, place) in [
        ("key", tokens.key.key_uri()),
        ("site CA", show(folder.site_ca())),
        ("certificate", show(folder.certificate())),
        ("private CA", show(folder.pki("ca.pem"))),
        ("signer.toml", show(folder.config("signer"))),
        ("proxy.toml", show(folder.config("proxy"))),
        ("signer's log", show(folder.log("signer"))),
        ("proxy's log", show(folder.log("proxy"))),
    ] {
        row(what, place);
    }
}

fn stay(running: &mut Running, interrupt: &Interrupt) -> Result<(), Error> {
    say::line("\nCtrl-C stops everything.");
    while !interrupt.raised() {
        running.signer.check()?;
        running.proxy.check()?;
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

fn stop(running: Running) -> Result<(), Error> {
    let Running { signer, proxy, .. } = running;
    let proxy = proxy.stop(STOP_GRACE)?;
    let signer = signer.stop(STOP_GRACE)?;
    say::line(format!("\nstopped: proxy {proxy}, signer {signer}"));
    Ok(())
}

/// Finds out before anything is built that a port is taken.
fn check_free(address: SocketAddr) -> Result<(), Error> {
    TcpListener::bind(address)
        .map(drop)
        .map_err(|source| Error::Listen { address, source })
}

/// The documented port where it is free, another one where it is not.
fn signer_address() -> Result<SocketAddr, Error> {
    let usual = SocketAddr::from(([127, 0, 0, 1], 7443));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    TcpListener::bind(usual)
        .or_else(|_| TcpListener::bind(any))
        .and_then(|listener| listener.local_addr())
        .map_err(|source| Error::Listen {
            address: any,
            source,
        })
}

const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longer than the daemons' own grace, which `site` sets to 3 and 5 seconds.
const STOP_GRACE: Duration = Duration::from_secs(12);
