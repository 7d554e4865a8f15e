//! A token, a folder, the program, and openssl.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use keyhaven_softhsm_test::{ModuleKind, TestToken};
use serde_json::Value;
use tempfile::TempDir;

/// The password of every encrypted file here.
pub(crate) const PASSWORD: &str = "correct horse battery";

pub(crate) struct Bench {
    pub(crate) token: TestToken,
    /// A second token, of another module, in the same process.
    pub(crate) beside: Option<TestToken>,
    folder: TempDir,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(ModuleKind::SoftHsm2)
    }

    /// With a token of another module.
    pub(crate) fn of(kind: ModuleKind) -> Self {
        Self {
            token: TestToken::of(kind, "test").unwrap(),
            beside: None,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// With one more token, of another module.
    pub(crate) fn and(mut self, kind: ModuleKind) -> Self {
        self.beside = Some(TestToken::of(kind, "keeper").unwrap());
        self
    }

    /// The options that name the module, for all but SoftHSM2, which is found.
    pub(crate) fn module_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.token.kind() != ModuleKind::SoftHsm2 {
            options.push("--module".to_owned());
            options.push(self.token.module().display().to_string());
        }
        if let Some(text) = self.token.init_args() {
            options.push("--init-args".to_owned());
            options.push(text);
        }
        options
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn secret(&self, name: &str, content: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        format!("file:{}", path.display())
    }

    /// Runs the program, in the folder, without a terminal.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_signer-admin"))
            .args(arguments)
            .current_dir(self.folder.path())
            .envs(self.token.env())
            .envs(self.beside.iter().flat_map(TestToken::env))
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let run = Run::of(&output);
        // No secret is ever repeated, whatever the verb.
        let pin_line = self.token.so_pin();
        for secret in [
            PASSWORD,
            pin_line,
            "BEGIN PRIVATE KEY",
            "BEGIN RSA PRIVATE",
            "BEGIN EC PRIVATE",
        ] {
            assert!(
                !run.stdout.contains(secret) && !run.stderr.contains(secret),
                "{run:?}"
            );
        }
        run
    }

    /// Runs a verb on the token.
    pub(crate) fn on_token(&self, arguments: &[&str]) -> Run {
        let uri = self.token.uri_with_pin();
        let options = self.module_options();
        let mut all = arguments.to_vec();
        all.extend(["--token", &uri]);
        all.extend(options.iter().map(String::as_str));
        self.run(&all)
    }

    /// Runs a verb on the token that must succeed; gives its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let run = self.on_token(&all);
        assert_eq!(run.code, 0, "{run:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// An identity of a signer from a CA of its own.
    pub(crate) fn identity(&self) {
        use std::os::unix::fs::PermissionsExt;
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out idca.key");
        self.openssl("req -new -x509 -key idca.key -subj /CN=ca -days 90 -out idca.crt");
        self.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out id.key");
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(self.path("id.key"), mode).unwrap();
        self.openssl("req -new -key id.key -subj /CN=signer -out id.csr");
        std::fs::write(
            self.path("id.ext"),
            "subjectAltName=critical,URI:spiffe://keyhaven.test/signer/one\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n",
        )
        .unwrap();
        self.openssl("x509 -req -in id.csr -CA idca.crt -CAkey idca.key -CAcreateserial -days 90 -extfile id.ext -out id.crt");
    }

    /// Writes `signer.toml`: one site with the key `demo` of the token and its certificate, where the second token,
    /// if there is one, is `keeper`.
    pub(crate) fn configure(&self, whole: &str, of_site: &str, of_key: &str) {
        let section = |name: &str, token: &TestToken| {
            let args = token.init_args();
            let args = args.map_or(String::new(), |args| format!("init_args = \"{args}\"\n"));
            format!(
                "[[token]]\nname = \"{name}\"\nmodule = \"{}\"\nuri = \"{}\"\n{args}",
                token.module().display(),
                token.uri_with_pin()
            )
        };
        let beside = self.beside.as_ref().map(|token| section("keeper", token));
        let text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"id.crt\"\nkey = \"id.key\"\nca = \"idca.crt\"\n\
             {whole}\n{}{}\
             [[site]]\nnames = [\"ec-p256.example\"]\nproxies = [\"spiffe://keyhaven.test/proxy/edge-1\"]\n{of_site}\n\
             [[site.key]]\ntoken = \"main\"\nuri = \"pkcs11:object=demo;type=private\"\ncertificate = \"ec-p256.crt\"\n{of_key}\n",
            section("main", &self.token),
            beside.unwrap_or_default()
        );
        std::fs::write(self.path("signer.toml"), text).unwrap();
    }

    /// Writes `signer.toml` of a signer that is a site of the KMS and nothing else.
    pub(crate) fn configure_kms(&self, central_key: &Path) {
        let text = format!(
            "listen = \"127.0.0.1:0\"\n[identity]\ncertificate = \"id.crt\"\nkey = \"id.key\"\nca = \"idca.crt\"\n\
             [[token]]\nname = \"main\"\nuri = \"{}\"\n\
             [kms]\nsite = \"fra\"\ntoken = \"main\"\ncentral_key = \"{}\"\nreplica = \"replica.redb\"\n\
             [[kms.central]]\naddress = \"127.0.0.1:7500\"\nidentity = \"spiffe://keyhaven.test/central/main\"\n",
            self.token.uri_with_pin(),
            central_key.display()
        );
        std::fs::write(self.path("signer.toml"), text).unwrap();
    }

    /// What [`Bench::configure`] needs: identity, key and certificate.
    pub(crate) fn prepare_site(&self) {
        self.make("ec-p256");
        self.json(&["key", "import", "ec-p256.pem", "--label", "demo", "--yes"]);
        self.identity();
    }

    /// Runs openssl in the folder; it must succeed.
    pub(crate) fn openssl(&self, arguments: &str) -> String {
        let output = Command::new("openssl")
            .args(
                arguments
                    .split_ascii_whitespace()
                    .map(|part| part.replace('~', PASSWORD)),
            )
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The labels of the token's objects of a class, as pkcs11-tool lists them.
    pub(crate) fn labels(&self, class: &str) -> Vec<String> {
        let output = self
            .token
            .pkcs11_tool()
            .args(["--list-objects", "--type", class])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().strip_prefix("label:"))
            .map(|label| label.trim().to_owned())
            .collect()
    }
}

impl Run {
    /// The doctor found this.
    pub(crate) fn found(&self, mark: &str, what: &str) {
        let hit = self
            .stdout
            .lines()
            .any(|line| line.starts_with(mark) && line.contains(what));
        assert!(hit, "no {mark} with {what}: {}", self.stdout);
    }

    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It failed at run time, and the document on standard error says this.
    pub(crate) fn refused_in_json(&self, what: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        let document: Value = serde_json::from_str(last).unwrap();
        let error = document["error"].as_str().unwrap();
        assert!(error.contains(what), "{self:?}");
    }

    /// It failed with this code, in two lines, and the first says this.
    pub(crate) fn refused(&self, code: i32, what: &str) {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<&str> = self.stderr.lines().collect();
        let error = lines.iter().position(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error line: {self:?}"));
        assert!(lines[error].contains(what), "{self:?}");
        assert!(lines[error + 1].starts_with("  try: "), "{self:?}");
        assert!(self.stdout.is_empty(), "{self:?}");
    }
}

/// Content and time of last change.
pub(crate) fn fingerprint(path: &Path) -> (Vec<u8>, std::time::SystemTime) {
    let metadata = path.metadata().unwrap();
    (std::fs::read(path).unwrap(), metadata.modified().unwrap())
}
