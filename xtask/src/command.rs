//! Runs a command to its end.
//!
//! Knows nothing of what it runs. A command ends with us: when a signal comes it is told to stop, and its
//! failure carries its own words.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, interrupt::Interrupt};

/// Runs a command; what it says goes to our own output.
pub fn run(command: &mut Command, interrupt: &Interrupt) -> Result<(), Error> {
    let child = spawn(command)?;
    finish(command, child, interrupt)
}

/// Runs a command and gives what it wrote to standard output; a failure carries its standard error.
pub fn capture(command: &mut Command) -> Result<Vec<u8>, Error> {
    command.stdin(Stdio::null());
    let output = command.output();
    judge(command, output)
}

/// The same for a command that reads a text, which must be short enough for a pipe to hold.
pub fn converse(command: &mut Command, input: &str) -> Result<Vec<u8>, Error> {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    if let Some(mut pipe) = child.stdin.take() {
        // A command that ends without reading says why by itself.
        let _ = pipe.write_all(input.as_bytes());
    }
    judge(command, child.wait_with_output())
}

/// Runs a command with what it says going to a log file and, line by line, nowhere else.
pub fn run_quietly(command: &mut Command, interrupt: &Interrupt) -> Result<(), Error> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    let readers = [
        child.stdout.take().map(|pipe| read_all(Box::new(pipe))),
        child.stderr.take().map(|pipe| read_all(Box::new(pipe))),
    ];
    let result = finish(command, child, interrupt);
    let said: String = readers
        .into_iter()
        .flatten()
        .filter_map(|reader| reader.join().ok())
        .collect();
    result.map_err(|error| match error {
        Error::Failed {
            command, status, ..
        } => Error::Failed {
            command,
            status,
            said: last_lines(&said, 40),
        },
        other => other,
    })
}

/// The same command, to be started once more.
pub fn again(command: &Command) -> Command {
    like(Command::new(command.get_program()), command)
}

/// The command, to be started by a program that sets something up and then becomes it.
pub fn under(wrapper: &Path, arguments: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper);
    wrapped.args(arguments).arg(command.get_program());
    like(wrapped, command)
}

/// Where a program is, if it is in `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command line for people.
pub fn text(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn judge(command: &Command, output: io::Result<Output>) -> Result<Vec<u8>, Error> {
    let output = output.map_err(|source| Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed {
        command: text(command),
        status: output.status.to_string(),
        said: last_lines(&said, 25),
    })
}

fn like(mut copy: Command, command: &Command) -> Command {
    copy.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => copy.env(name, value),
            None => copy.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        copy.current_dir(dir);
    }
    copy
}

fn spawn(command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|source| Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

fn finish(command: &Command, mut child: Child, interrupt: &Interrupt) -> Result<(), Error> {
    let failed = |source| Error::Start {
        program: text(command),
        source,
    };
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            interrupt.check()?;
            if status.success() {
                return Ok(());
            }
            return Err(Error::Failed {
                command: text(command),
                status: status.to_string(),
                said: String::new(),
            });
        }
        if interrupt.raised() {
            if let Some(pid) = pid_of(&child) {
                // It may have ended in the meantime; then there is nothing to tell.
                let _ = kill_process(pid, Signal::TERM);
            }
            child.wait().map_err(failed)?;
            return Err(Error::Interrupted);
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// The process id of a child that was not waited for yet.
pub(crate) fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn read_all(mut pipe: Box<dyn Read + Send>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// How often a child and the interrupt flag are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_carries_the_commands_words() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        assert_eq!(error.evidence(), "why");
        let error = run_quietly(
            Command::new("sh").args(["-c", "echo first; exit 3"]),
            &Interrupt::default(),
        )
        .unwrap_err();
        assert_eq!(error.evidence(), "first");
    }

    #[test]
    fn a_command_reads_what_it_is_given() {
        let said = converse(&mut Command::new("cat"), "a line").unwrap();
        assert_eq!(said, b"a line");
        let error = converse(Command::new("sh").args(["-c", "echo why; exit 3"]), "x").unwrap_err();
        assert_eq!(error.evidence(), "why");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = capture(&mut Command::new("keyhaven-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("keyhaven-no-such-program"));
        assert!(find("keyhaven-no-such-program").is_none());
        assert!(find("sh").is_some());
    }
}
