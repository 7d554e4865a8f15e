//! Questions to a person: yes, a label again, a secret without echo.
//!
//! Asked on a terminal alone; in a script there is nobody, and the caller hears so. Invariant: a secret is asked
//! for without echo, and wiped when it is dropped.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::Path,
};

use keyhaven_hsm::{Pin, PinError, PinSource, Uri};

use super::{failure::Failure, text::percent};

/// Whether there is somebody to ask.
pub(super) fn on_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Tells the person at the command line something beside the report.
pub(super) fn tell(text: &str) {
    // Nothing can be done about a closed terminal.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Asks for a yes. Without a terminal it fails with what to write instead.
pub(super) fn confirm(question: &str, without_terminal: &str) -> Result<(), Failure> {
    let answer = line(&format!("{question} [y/N] "), without_terminal)?;
    if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(
            "nothing was done: the answer was not yes",
            "run it again when you are sure",
        ))
    }
}

/// Asks for a label to be typed again.
pub(super) fn confirm_label(
    consequence: &str,
    label: &str,
    without_terminal: &str,
) -> Result<(), Failure> {
    let answer = line(
        &format!("{consequence}\nType the label again to go on: "),
        without_terminal,
    )?;
    if answer == label {
        Ok(())
    } else {
        Err(Failure::new(
            "nothing was done: the label does not match",
            "run it again when you are sure",
        ))
    }
}

/// Asks for a name to be typed again.
pub(super) fn confirm_name(
    consequence: &str,
    name: &str,
    without_terminal: &str,
) -> Result<(), Failure> {
    let prompt = format!("{consequence}\nType `{name}` again to go on: ");
    if line(&prompt, without_terminal)? == name {
        Ok(())
    } else {
        Err(Failure::new(
            "nothing was done: that is not what was to be typed",
            "run it again when you are sure",
        ))
    }
}

fn line(prompt: &str, without_terminal: &str) -> Result<String, Failure> {
    if !on_terminal() {
        return Err(Failure::usage(
            "this must be confirmed, and there is no terminal to ask on",
            without_terminal,
        ));
    }
    let failed = |error: std::io::Error| {
        Failure::new(
            format!("cannot ask on the terminal: {error}"),
            without_terminal,
        )
    };
    let mut stderr = std::io::stderr();
    stderr
        .write_all(prompt.as_bytes())
        .and_then(|()| stderr.flush())
        .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(answer.trim().to_owned())
}

/// A secret that the program needs: what it is called, where it is, and which option names the place.
pub(super) struct Wanted<'a> {
    /// "user PIN", "password", …
    pub(super) noun: &'a str,
    /// What it belongs to.
    pub(super) of: &'a str,
    /// What its place is written behind, for advice: `--pin-source `, or `pin-source=` of a URI.
    pub(super) place: &'a str,
    /// Whether it is being set, and so must be typed twice.
    pub(super) new: bool,
}

impl Wanted<'_> {
    /// Reads the secret from its source; without one, asks on the terminal.
    pub(super) fn read(&self, source: Option<&PinSource>) -> Result<Pin, Failure> {
        self.read_from(Path::new("."), source)
    }

    /// The same, with the folder from which a relative path starts.
    pub(super) fn read_from(
        &self,
        base: &Path,
        source: Option<&PinSource>,
    ) -> Result<Pin, Failure> {
        match source {
            Some(source @ (PinSource::File(_) | PinSource::Credential(_))) => source
                .read(base, self.of)
                .map_err(|error| self.failed(&error)),
            Some(PinSource::Terminal) | None => self.ask(),
        }
    }

    fn ask(&self) -> Result<Pin, Failure> {
        if !on_terminal() {
            return Err(Failure::usage(
                format!(
                    "there is no {} for {}, and no terminal to ask on",
                    self.noun, self.of
                ),
                self.advice(),
            ));
        }
        let prompt = |again: &str| {
            rpassword::prompt_password(format!("{} of {}{again}: ", self.noun, self.of))
                .map(Pin::new)
                .map_err(|error| {
                    Failure::new(
                        format!("cannot read the {} from the terminal: {error}", self.noun),
                        self.advice(),
                    )
                })
        };
        let first = prompt("")?;
        // A token would count it as a wrong try, and a file's empty password was tried before anybody was asked.
        if first.expose_secret().is_empty() {
            return Err(Failure::new(
                format!(
                    "the {} that was typed is empty; nothing was done",
                    self.noun
                ),
                "run it again and type it",
            ));
        }
        if self.new && prompt(", again")? != first {
            return Err(Failure::new(
                format!(
                    "the two entries of the {} differ; nothing was done",
                    self.noun
                ),
                "run it again and type the same twice",
            ));
        }
        Ok(first)
    }

    fn failed(&self, error: &PinError) -> Failure {
        // hsm speaks of PINs; the same rules hold for every secret here.
        let what = super::text::chain(error).replace("PIN", self.noun);
        let remedy = match error {
            PinError::Permissions { .. } => {
                format!("change the {} too, if others may have read it", self.noun)
            }
            PinError::Content { .. } => format!("write the {} into it", self.noun),
            PinError::Read { .. } => format!(
                "put the file there, owned by this user and with mode 0600, or correct {}file:/PATH",
                self.place
            ),
            _ => self.advice(),
        };
        Failure::new(what, remedy)
    }

    fn advice(&self) -> String {
        format!(
            "give {}file:/PATH (mode 0600), cred:NAME or terminal:",
            self.place
        )
    }
}

/// Reads a secret from the first line of a file (mode 0600) that an option names; without one, asks on the terminal.
pub(super) fn secret(
    noun: &str,
    of: &str,
    option: &str,
    path: Option<&Path>,
) -> Result<Pin, Failure> {
    let advice = || format!("give {option} FILE; only its owner may read it (mode 0600)");
    if path.is_none() && !on_terminal() {
        return Err(Failure::usage(
            format!("there is no {noun} for {of}, and no terminal to ask on"),
            advice(),
        ));
    }
    let wanted = Wanted {
        noun,
        of,
        place: option,
        new: false,
    };
    let source = path.map(|path| PinSource::File(path.to_owned()));
    wanted.read(source.as_ref()).map_err(|failure| Failure {
        remedy: advice(),
        ..failure
    })
}

/// Reads `--pin-source` and its like with the URI parser, so that both places take the same words.
pub(super) fn parse_source(option: &str, text: &str) -> Result<PinSource, Failure> {
    let uri: Result<Uri, _> = format!("pkcs11:?pin-source={}", percent(text.as_bytes())).parse();
    uri.ok()
        .and_then(|uri| uri.pin_source().cloned())
        .ok_or_else(|| {
            Failure::usage(
                format!("{option} does not name the place of a secret"),
                format!("write {option} file:/PATH, cred:NAME or terminal:; the secret itself is never given here"),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_place_of_a_source_is_not_repeated() {
        let failure = parse_source("--pin-source", "hunter2").unwrap_err();
        assert!(!failure.render(false).contains("hunter2"));
        assert_eq!(
            parse_source("--pin-source", "file:a b"),
            Ok(PinSource::File("a b".into()))
        );
    }
}
