//! The log: to standard error, for people or as JSON.
//!
//! Sets up `tracing` once for the process and makes panics into log lines. What is logged is each room's own
//! choice; nothing here knows of secrets, so none may be given to it.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, util::SubscriberInitExt as _};

use crate::config::{LogFormat, LogSection, Problems};

/// Why the log was not set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be parsed.
    #[error(
        "the log level `{level}` is no filter; give `info`, or one like `keyhaven_hsm=debug,info`"
    )]
    Level {
        /// What was given.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("the log is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sets the process's log up as the `[log]` table says, and logs every panic from now on.
pub fn init(section: &LogSection) -> Result<(), TelemetryError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(section)?)
        .with_writer(std::io::stderr);
    match section.format {
        LogFormat::Human => builder
            .with_ansi(std::io::stderr().is_terminal())
            .finish()
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    }
    .map_err(TelemetryError::Twice)?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        tracing::error!(
            place,
            message = panic.payload_as_str(),
            "panic: a defect of this program"
        );
    }));
    Ok(())
}

impl LogSection {
    /// Adds what is wrong with the table to `problems`.
    pub fn check(&self, problems: &mut Problems) {
        if let Err(error) = filter(self) {
            problems.add(
                self.level.span(),
                format!("`{}` is no log filter", self.level.get_ref()),
                "Give `info`, or one like `keyhaven_hsm=debug,info`.",
            );
            tracing::debug!(%error, "log filter");
        }
    }
}

fn filter(section: &LogSection) -> Result<EnvFilter, TelemetryError> {
    let level = section.level.get_ref();
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| TelemetryError::Level {
            level: level.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use toml::Spanned;

    use super::*;
    use crate::config;

    fn section(level: &str) -> LogSection {
        LogSection {
            format: LogFormat::Json,
            level: Spanned::new(0..0, level.to_owned()),
        }
    }

    #[test]
    fn a_bad_filter_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.toml");
        std::fs::write(&path, "format = \"json\"\nlevel = \"info,,=\"\n").unwrap();
        let (section, mut problems) = config::read::<LogSection>(&path).unwrap().split();
        section.check(&mut problems);
        assert!(
            problems
                .to_string()
                .contains("log.toml:2: `info,,=` is no log filter"),
            "{problems}"
        );
        assert!(matches!(init(&section), Err(TelemetryError::Level { .. })));
    }

    #[test]
    fn good_filters_pass_and_the_log_is_set_up_once() {
        for level in ["info", "keyhaven_hsm=debug,info", "off"] {
            assert!(filter(&section(level)).is_ok(), "{level}");
        }
        init(&section("info")).unwrap();
        assert!(matches!(
            init(&section("info")),
            Err(TelemetryError::Twice(_))
        ));
    }
}
