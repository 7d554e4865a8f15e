//! The peer: nginx with the libp11 engine on the same SoftHSM2 key.
//!
//! One process, no tickets, no session cache: every handshake is a full one. Its PIN stands in its configuration
//! because the engine takes it from nowhere else; the token lives as long as the measurement.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use keyhaven_xtask::{
    Error, command,
    daemon::Daemon,
    interrupt::Interrupt,
    packages,
    site::{self, Folder, Token},
};

use crate::handshake::{free_address, on_server_cpu};

/// A running nginx.
pub(crate) struct Nginx {
    pub(crate) daemon: Daemon,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    /// Starts it and waits until it accepts.
    pub(crate) fn start(
        folder: &Folder,
        token: &Token<'_>,
        interrupt: &Interrupt,
    ) -> Result<Nginx, Error> {
        let address = free_address()?;
        let conf = folder.path().join("nginx.conf");
        let openssl = folder.path().join("openssl.cnf");
        let pin = std::fs::read_to_string(token.pin()).map_err(|source| Error::File {
            act: "read",
            path: token.pin(),
            source,
        })?;
        write(&conf, &nginx_conf(folder, &token.key_uri(), address, &pin))?;
        write(&openssl, &openssl_conf(&pin)?)?;
        let program = command::find("nginx").ok_or_else(|| missing("nginx", "nginx-light"))?;
        let mut nginx = Command::new(program);
        nginx.arg("-p").arg(folder.path()).arg("-c").arg(&conf);
        nginx.envs(token.env());
        nginx.env("OPENSSL_CONF", &openssl);
        let mut daemon = Daemon::start("nginx", &on_server_cpu(&nginx), &folder.log("nginx"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            interrupt.check()?;
            daemon.check()?;
            if Instant::now() > deadline {
                return Err(daemon.error("does not accept connections".to_owned()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Nginx { daemon, address })
    }
}

fn nginx_conf(folder: &Folder, key: &str, address: SocketAddr, pin: &str) -> String {
    let path = folder.path().display();
    let certificate = folder.certificate();
    format!(
        r#"daemon off;
master_process off;
worker_processes 1;
error_log stderr warn;
pid {path}/nginx.pid;
env SOFTHSM2_CONF;
env OPENSSL_CONF;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {path}/nginx-body;
    proxy_temp_path {path}/nginx-proxy;
    fastcgi_temp_path {path}/nginx-fastcgi;
    uwsgi_temp_path {path}/nginx-uwsgi;
    scgi_temp_path {path}/nginx-scgi;
    server {{
        listen {address} ssl;
        ssl_certificate {};
        ssl_certificate_key "engine:pkcs11:{key}?pin-value={pin}";
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_ecdh_curve X25519:prime256v1;
        ssl_session_cache off;
        ssl_session_tickets off;
        keepalive_timeout 0;
        return 200;
    }}
}}
"#,
        certificate.display()
    )
}

fn openssl_conf(pin: &str) -> Result<String, Error> {
    let engine = existing(ENGINE_PLACES)
        .ok_or_else(|| missing("the libp11 engine", "libengine-pkcs11-openssl"))?;
    let module =
        existing(packages::SOFTHSM_PLACES).ok_or_else(|| missing("SoftHSM2", "softhsm2"))?;
    // Without init = 1 nginx does not start.
    Ok(format!(
        "openssl_conf = openssl_init\n[openssl_init]\nengines = engines\n[engines]\npkcs11 = pkcs11\n[pkcs11]\n\
         engine_id = pkcs11\ndynamic_path = {engine}\nMODULE_PATH = {module}\nPIN = {pin}\ninit = 1\n"
    ))
}

fn existing(places: &[&'static str]) -> Option<&'static str> {
    places
        .iter()
        .copied()
        .find(|place| Path::new(place).exists())
}

fn missing(what: &str, package: &str) -> Error {
    Error::Missing {
        what: what.to_owned(),
        remedy: format!("apt-get install {package}"),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    // Left by the measurement of the key before.
    let _ = std::fs::remove_file(path);
    site::write_private(path.to_path_buf(), text)
}

/// Where distributions put the engine.
const ENGINE_PLACES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so",
];
