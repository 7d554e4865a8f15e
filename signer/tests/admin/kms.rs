//! The ceremonies, at two tokens: central's with its officer, a site's, and the files between them.
//!
//! Central's daemon is not needed for them: the classes that it would have signed are signed here by the key in its token,
//! with pkcs11-tool.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use keyhaven_types::{HardwareLevel, KekId, Purpose, Replication};
use keyhaven_wire::kms::{ClassEpoch, ClassRecord, Record, signed_text};
use serde_json::{Value, json};

use crate::{
    golden::{compare, shape},
    support::{Bench, Run},
};

/// Central's token and a site's, each with its folder.
struct Rite {
    central: Bench,
    site: Bench,
    so_pin: String,
}

impl Rite {
    fn new() -> Self {
        let central = Bench::new();
        let source = central.secret("so-pin", central.token.so_pin());
        let so_pin = source.strip_prefix("file:").unwrap().to_owned();
        Self {
            central,
            site: Bench::new(),
            so_pin,
        }
    }

    /// With central's keys made, and two for each purpose.
    fn begun() -> Self {
        let rite = Self::new();
        rite.init();
        rite
    }

    fn init(&self) -> Value {
        self.done(&["init", "--pool", "2", "--central-key", "central.pem"])
    }

    fn ceremony(&self, arguments: &[&str]) -> Run {
        let uri = self.central.token.uri_with_pin();
        let at = ["--uri", &uri, "--so-pin-file", &self.so_pin, "--json"];
        self.central
            .run(&[&["kms", "ceremony"], arguments, &at[..]].concat())
    }

    fn done(&self, arguments: &[&str]) -> Value {
        let run = self.ceremony(arguments);
        assert_eq!(run.code, 0, "{run:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Writes an export of one class, for signing, with these epochs of the keys in the pool; the last but one is in use
    /// when there are two.
    fn export(&self, name: &str, keks: &[KekId]) {
        let epochs = keks
            .iter()
            .zip(1..)
            .map(|(&kek, epoch)| ClassEpoch {
                purpose: Purpose::Sign,
                epoch,
                kek,
                current: epoch == 1,
            })
            .collect();
        let record = Record::Class(ClassRecord {
            name: name.parse().unwrap(),
            regions: vec!["eu".parse().unwrap()],
            hardware_min: HardwareLevel::Software,
            bound_s: 30,
            bound_before: None,
            generated_only: false,
            replication: Replication::Eager,
            epochs,
            revision: 1,
        });
        let body = postcard::to_stdvec(&record).unwrap();
        let signature = self.sign(&signed_text(&body));
        let export = json!({
            "keyhaven": "classes 1",
            "classes": [{"body": STANDARD.encode(body), "signature": STANDARD.encode(signature)}],
        });
        fs::write(self.central.path("classes.json"), export.to_string()).unwrap();
    }

    fn sign(&self, text: &[u8]) -> Vec<u8> {
        let (input, output) = (self.central.path("digest"), self.central.path("signature"));
        fs::write(&input, digest(&SHA256, text)).unwrap();
        let signed = self
            .central
            .token
            .pkcs11_tool()
            .args(["--sign", "--mechanism", "ECDSA", "--signature-format"])
            .args(["openssl", "--label", "keyhaven-central", "--input-file"])
            .arg(&input)
            .arg("--output-file")
            .arg(&output)
            .output()
            .unwrap();
        assert!(signed.status.success(), "{signed:?}");
        fs::read(output).unwrap()
    }

    fn keks(&self, purpose: &str) -> Vec<KekId> {
        let status = self.done(&["status"]);
        let keks = status["keks"].as_array().unwrap();
        keks.iter()
            .filter(|kek| kek["purpose"] == purpose)
            .map(|kek| kek["kek"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Starts the site's side and waits for its request.
    fn enroll(&self, central_key: &str) -> Enroll {
        let request = self.site.path("request.json");
        let response = self.site.path("response.json");
        for old in [&request, &response] {
            let _ = fs::remove_file(old);
        }
        let child = Command::new(env!("CARGO_BIN_EXE_signer-admin"))
            .args(["kms", "site", "enroll", "--site", "fra", "--json", "--uri"])
            .arg(self.site.token.uri_with_pin())
            .arg("--central-key")
            .arg(self.central.path(central_key))
            .arg("--request")
            .arg(&request)
            .arg("--response")
            .arg(&response)
            .args(["--timeout", "60s"])
            .envs(self.site.token.env())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut enroll = Enroll {
            child,
            request,
            response,
        };
        enroll.wait_for_request();
        enroll
    }

    fn deliver(&self, enroll: &Enroll, fingerprint: &str) -> Run {
        let (request, response) = (enroll.request.display(), enroll.response.display());
        self.ceremony(&[
            "deliver",
            "--classes",
            "classes.json",
            "--class",
            "everywhere",
            "--request",
            &request.to_string(),
            "--fingerprint",
            fingerprint,
            "--response",
            &response.to_string(),
        ])
    }

    /// Labels of class keys in the site's token.
    fn held(&self) -> Vec<String> {
        let mut held = self.site.labels("secrkey");
        held.sort();
        held
    }
}

/// A site that waits.
struct Enroll {
    child: Child,
    request: PathBuf,
    response: PathBuf,
}

impl Enroll {
    fn wait_for_request(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.request.exists() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(Instant::now() < deadline, "no request");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn fingerprint(&self) -> String {
        let request: Value = serde_json::from_slice(&fs::read(&self.request).unwrap()).unwrap();
        request["fingerprint"].as_str().unwrap().to_owned()
    }

    fn end(self) -> Run {
        Run::of(&self.child.wait_with_output().unwrap())
    }
}

#[test]
fn a_site_gets_what_the_ceremony_has_signed_for_it() {
    let rite = Rite::new();
    let made = rite.init();
    compare("json-kms-ceremony-init.txt", &shape(&made));
    assert_eq!(
        made["made"].as_array().unwrap().len(),
        2 * Purpose::ALL.len()
    );
    let status = rite.done(&["status"]);
    compare("json-kms-ceremony-status.txt", &shape(&status));
    assert_eq!(status["fingerprint"], made["fingerprint"]);

    let keks = rite.keks("sign");
    rite.export("everywhere", &keks[..1]);
    let enroll = rite.enroll("central.pem");
    let request: Value = serde_json::from_slice(&fs::read(&enroll.request).unwrap()).unwrap();
    assert_eq!(request["keyhaven"], "site request 1");
    assert_eq!(request["site"], "fra");
    let run = rite.deliver(&enroll, &enroll.fingerprint());
    assert_eq!(run.code, 0, "{run:?}");
    let delivered: Value = serde_json::from_str(&run.stdout).unwrap();
    compare("json-kms-ceremony-deliver.txt", &shape(&delivered));
    let response = enroll.response.clone();
    let mode = response.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let answer: Value = serde_json::from_slice(&fs::read(&response).unwrap()).unwrap();
    compare("json-kms-site-response.txt", &shape(&answer));
    let run = enroll.end();
    assert_eq!(run.code, 0, "{run:?}");
    let enrolled: Value = serde_json::from_str(&run.stdout).unwrap();
    compare("json-kms-site-enroll.txt", &shape(&enrolled));
    assert_eq!(rite.held(), ["kh-kek:everywhere:sign:1"]);

    // A rotated class: the site gets what waits for it, and not again what it has.
    rite.export("everywhere", &keks);
    let enroll = rite.enroll("central.pem");
    let run = rite.deliver(&enroll, &enroll.fingerprint());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(enroll.end().code, 0);
    let both = ["kh-kek:everywhere:sign:1", "kh-kek:everywhere:sign:2"];
    assert_eq!(rite.held(), both);

    let mut enroll = rite.enroll("central.pem");
    rite.deliver(&enroll, &enroll.fingerprint())
        .refused_in_json("has every key");
    enroll.child.kill().unwrap();
    enroll.child.wait().unwrap();
    assert!(!response.exists());
}

#[test]
fn the_doctor_says_which_class_keys_a_site_holds() {
    let rite = Rite::begun();
    rite.export("everywhere", &rite.keks("sign")[..1]);
    rite.site.identity();
    rite.site.configure_kms(&rite.central.path("central.pem"));
    let doctor = || rite.site.run(&["doctor", "--config", "signer.toml"]);
    let run = doctor();
    assert_eq!(run.code, 0, "{run:?}");
    run.found("warning", "holds no class key");
    assert!(run.stdout.contains("try: have a ceremony"), "{run:?}");
    // A site's token needs no private key of its own.
    assert!(!run.stdout.contains("no private key"), "{run:?}");

    let enroll = rite.enroll("central.pem");
    assert_eq!(rite.deliver(&enroll, &enroll.fingerprint()).code, 0);
    assert_eq!(enroll.end().code, 0);
    let run = doctor();
    assert_eq!(run.code, 0, "{run:?}");
    run.found("ok", "holds the class keys everywhere/sign 1");
}

#[test]
fn a_ceremony_that_is_held_again_makes_what_is_missing_and_nothing_else() {
    let rite = Rite::begun();
    let pem = fs::read(rite.central.path("central.pem")).unwrap();
    let again = rite.init();
    assert_eq!(again["made"].as_array().unwrap().len(), 0, "{again}");
    assert_eq!(fs::read(rite.central.path("central.pem")).unwrap(), pem);
    let made = rite.done(&["pool", "--purpose", "mac", "--count", "3"]);
    assert_eq!(made["made"].as_array().unwrap().len(), 3, "{made}");
    assert_eq!(rite.keks("mac").len(), 5);
    assert_eq!(rite.keks("sign").len(), 2);

    fs::write(rite.central.path("central.pem"), "a diary").unwrap();
    rite.ceremony(&["init", "--central-key", "central.pem"])
        .refused_in_json("no public key");
    assert_eq!(
        fs::read(rite.central.path("central.pem")).unwrap(),
        b"a diary"
    );
}

#[test]
fn k4_nothing_is_wrapped_for_a_fingerprint_that_differs() {
    let rite = Rite::begun();
    rite.export("everywhere", &rite.keks("sign")[..1]);
    let mut enroll = rite.enroll("central.pem");
    let mut other = enroll.fingerprint().into_bytes();
    other[63] = if other[63] == b'0' { b'1' } else { b'0' };
    let other = String::from_utf8(other).unwrap();
    rite.deliver(&enroll, &other)
        .refused_in_json("not the one that the site's screen shows");
    let short = enroll.fingerprint()[..32].to_owned();
    assert_eq!(rite.deliver(&enroll, &short).code, 64);
    assert!(!enroll.response.exists());
    enroll.child.kill().unwrap();
    enroll.child.wait().unwrap();
}

#[test]
fn k4_a_class_that_this_central_has_not_signed_is_not_delivered() {
    let (rite, impostor) = (Rite::begun(), Rite::begun());
    impostor.export("everywhere", &rite.keks("sign")[..1]);
    let forged = fs::read(impostor.central.path("classes.json")).unwrap();
    fs::write(rite.central.path("classes.json"), forged).unwrap();
    let mut enroll = rite.enroll("central.pem");
    rite.deliver(&enroll, &enroll.fingerprint())
        .refused_in_json("not signed by this central");
    assert!(!enroll.response.exists());
    enroll.child.kill().unwrap();
    enroll.child.wait().unwrap();
}

#[test]
fn k4_a_site_takes_nothing_in_that_its_own_central_has_not_signed_for_it() {
    let (rite, other) = (Rite::begun(), Rite::begun());
    rite.export("everywhere", &rite.keks("sign")[..1]);
    // Another central's key is the one that this site was given.
    let pinned = fs::read(other.central.path("central.pem")).unwrap();
    fs::write(rite.central.path("other.pem"), pinned).unwrap();
    let enroll = rite.enroll("other.pem");
    assert_eq!(rite.deliver(&enroll, &enroll.fingerprint()).code, 0);
    enroll.end().refused_in_json("not signed by this central");
    assert!(rite.held().is_empty());

    // A response for an earlier transport key: bytes that were good once.
    let first = rite.enroll("central.pem");
    assert_eq!(rite.deliver(&first, &first.fingerprint()).code, 0);
    let earlier = first.response.clone();
    let kept = fs::read(&earlier);
    assert_eq!(first.end().code, 0);
    let site = Rite {
        site: Bench::new(),
        ..rite
    };
    let second = site.enroll("central.pem");
    fs::write(&second.response, kept.unwrap()).unwrap();
    second.end().refused_in_json("another transport key");
    assert!(site.held().is_empty());

    // An altered wrap.
    let third = site.enroll("central.pem");
    let aside = third.response.with_extension("aside");
    let whole = Enroll {
        response: aside.clone(),
        request: third.request.clone(),
        child: third.child,
    };
    assert_eq!(site.deliver(&whole, &whole.fingerprint()).code, 0);
    let mut answer: Value = serde_json::from_slice(&fs::read(&aside).unwrap()).unwrap();
    let wrap = answer["deliveries"][0]["wrap"].as_str().unwrap();
    let mut wrap = STANDARD.decode(wrap).unwrap();
    wrap[0] ^= 1;
    answer["deliveries"][0]["wrap"] = STANDARD.encode(wrap).into();
    fs::write(&third.response, answer.to_string()).unwrap();
    whole
        .end()
        .refused_in_json("not the one that central has signed");
    assert!(site.held().is_empty());
}

#[test]
fn a_site_does_not_wait_for_ever_nor_for_what_is_there_already() {
    let rite = Rite::begun();
    let uri = rite.site.token.uri_with_pin();
    let central = rite.central.path("central.pem").display().to_string();
    let enroll = [
        "kms",
        "site",
        "enroll",
        "--site",
        "fra",
        "--uri",
        &uri,
        "--central-key",
        &central,
        "--request",
        "request.json",
        "--response",
        "response.json",
        "--timeout",
        "1s",
    ];
    let run = rite.site.run(&enroll);
    // What the operator reads aloud, in groups of four.
    assert!(run.stderr.contains("Read this fingerprint"), "{run:?}");
    let groups = run
        .stderr
        .split_ascii_whitespace()
        .filter(|word| word.len() == 4 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .count();
    assert!(groups >= 32, "{run:?}");
    run.refused(1, "did not come");
    fs::write(rite.site.path("response.json"), "{}").unwrap();
    rite.site.run(&enroll).refused(1, "exists already");
}

#[test]
fn a_token_that_is_not_centrals_gets_no_pool() {
    let rite = Rite::new();
    rite.ceremony(&["pool", "--purpose", "sign", "--count", "1"])
        .refused_in_json("no key that signs records");
    rite.ceremony(&["status"])
        .refused_in_json("no key that signs records");
    assert!(rite.central.labels("privkey").is_empty());
    assert!(rite.central.labels("secrkey").is_empty());
}

#[test]
fn a_wrong_officers_pin_is_tried_once_and_told() {
    let rite = Rite::new();
    fs::write(&rite.so_pin, "00000000-not-it").unwrap();
    rite.ceremony(&["init", "--central-key", "central.pem"])
        .refused_in_json("refused the security officer's PIN");
    assert!(!rite.central.path("central.pem").exists());
    fs::set_permissions(&rite.so_pin, fs::Permissions::from_mode(0o644)).unwrap();
    rite.ceremony(&["init", "--central-key", "central.pem"])
        .refused_in_json("security officer's PIN");
}
