//! Runs a test again in a child process that sees a fresh token.
//!
//! Leaves the environment of the running process alone: setting it is a race between threads. The parent only
//! makes the token, waits for the child and removes the token; the test's body runs in the child alone.

use std::path::Path;
use std::process::Command;

use crate::kind::ModuleKind;
use crate::token::TestToken;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Reexec {
    /// The child: run the body with this token.
    Child(TestToken),
    /// The parent: the child has run the body and it passed.
    Done,
}

/// Gives the test a fresh token, as seen by its module in this very process.
///
/// ```ignore
/// #[test]
/// fn signs() {
///     let token = keyhaven_softhsm_test::fresh_token!();
///     token.generate_key("EC:prime256v1", "k", "01").unwrap();
///     // … load token.module() and use the key here.
/// }
/// ```
///
/// Stands first in a test that returns nothing. The child runs the rest of the test; in the parent the macro
/// waits for the child and returns from the test. `fresh_token!("label")` names the token (default `test`),
/// `fresh_token!("label", [("NAME", value), …])` adds to the child's environment. The token is one of SoftHSM2;
/// with `kind: ModuleKind::Nss` before all else it is one of NSS, and so on.
#[macro_export]
macro_rules! fresh_token {
    (kind: $kind:expr) => {
        $crate::fresh_token!(kind: $kind, "test")
    };
    (kind: $kind:expr, $label:expr) => {
        $crate::fresh_token!(kind: $kind, $label, [] as [(&str, &str); 0])
    };
    (kind: $kind:expr, $label:expr, $env:expr) => {{
        fn here() {}
        match $crate::reexec(&$crate::test_name_of(&here), $kind, $label, $env) {
            $crate::Reexec::Child(token) => token,
            $crate::Reexec::Done => return,
        }
    }};
    () => {
        $crate::fresh_token!(kind: $crate::ModuleKind::SoftHsm2)
    };
    ($label:expr) => {
        $crate::fresh_token!(kind: $crate::ModuleKind::SoftHsm2, $label)
    };
    ($label:expr, $env:expr) => {
        $crate::fresh_token!(kind: $crate::ModuleKind::SoftHsm2, $label, $env)
    };
}

/// What [`fresh_token!`] stands for; `test` is the test's name as `--exact` takes it.
///
/// # Panics
/// When no token can be made or the child fails: the test fails.
pub fn reexec<K, V>(
    test: &str,
    kind: ModuleKind,
    label: &str,
    env: impl IntoIterator<Item = (K, V)>,
) -> Reexec
where
    K: AsRef<std::ffi::OsStr>,
    V: AsRef<std::ffi::OsStr>,
{
    if let Some(dir) = std::env::var_os(MARKER) {
        let dir = Path::new(&dir);
        std::fs::write(dir.join(REACHED), "").expect("the token's folder can be written");
        return Reexec::Child(TestToken::attach(dir).expect("the parent has made this token"));
    }
    let token =
        TestToken::of(kind, label).unwrap_or_else(|error| panic!("no fresh token: {error}"));
    let binary = std::env::current_exe().expect("a running program has a path");
    let status = Command::new(binary)
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .envs(token.env())
        .envs(env)
        .env(MARKER, token.dir())
        .status()
        .unwrap_or_else(|error| panic!("cannot run the test again in a child: {error}"));
    assert!(
        status.success(),
        "the test failed in its child process: {status}"
    );
    assert!(
        token.dir().join(REACHED).exists(),
        "the child process ran no test named {test}"
    );
    Reexec::Done
}

/// The name of the test around a function item: its path without the crate and the function itself.
pub fn test_name_of<T>(item: &T) -> String {
    let path = std::any::type_name_of_val(item);
    let mut parts: Vec<&str> = path
        .split("::")
        .filter(|part| *part != "{{closure}}")
        .collect();
    parts.pop();
    if !parts.is_empty() {
        parts.remove(0);
    }
    parts.join("::")
}

/// Tells the child that it is one, and where its token is.
const MARKER: &str = "KEYHAVEN_TEST_TOKEN_DIR";
/// Written by the child, so that a wrong name, which runs no test and succeeds, is noticed.
const REACHED: &str = "reached";

#[cfg(test)]
mod tests {
    #[test]
    fn runs_the_body_in_a_child_that_sees_the_token() {
        let token = crate::fresh_token!("child", [("KEYHAVEN_EXTRA", "yes")]);
        assert_eq!(
            std::env::var_os("SOFTHSM2_CONF").unwrap(),
            token.conf().into_os_string()
        );
        assert_eq!(std::env::var("KEYHAVEN_EXTRA").unwrap(), "yes");
        token.generate_key("EC:prime256v1", "k", "01").unwrap();
    }

    #[test]
    #[should_panic = "the test failed in its child process"]
    fn fails_when_the_child_fails() {
        let _token = crate::fresh_token!();
        panic!(
            "another message than the one above, so that the child fails although it should panic"
        );
    }
}
