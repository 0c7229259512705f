//! What does the plugin do when the runtime starts it?
//!
//! It translates, and decides nothing but whether it was called properly.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::{Attachment, NetConf, PodArgs, is_name, parse_json};
use super::request::{
    AddRequest, CheckRequest, CniReply, CniRequest, DelRequest, GcRequest, receive, send,
};
use super::result::{CniError, ErrorCode, Version};
use super::{DEFAULT_SOCKET, MAX_MESSAGE};

/// How long the node may take: runtimes give up after some minutes, and must hear of us first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest interface name in bytes (`IFNAMSIZ` without its final zero).
const MAX_INTERFACE_NAME: usize = 15;

/// The plugin's whole run: environment and standard input in, standard output and exit status out.
pub fn run_plugin() -> ExitCode {
    let mut input = Vec::new();
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let outcome = match io::stdin().take(MAX_MESSAGE).read_to_end(&mut input) {
        Ok(_) => call(&environment, &input),
        Err(error) => {
            let error = CniError::new(ErrorCode::Io, format!("standard input: {error}"));
            Err(Failure { version: Version::V1_1_0.to_string(), error })
        }
    };
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (Some(failure.error.to_json(&failure.version)), ExitCode::FAILURE),
    };
    let printed = output.map_or(Ok(()), |value| writeln!(io::stdout(), "{value}"));
    if printed.is_err() { ExitCode::FAILURE } else { code }
}

/// A failure and the version to tell it in.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) version: String,
    pub(super) error: CniError,
}

/// One call of the plugin; what to print, if anything.
pub(super) fn call(
    environment: &dyn Fn(&str) -> Option<String>,
    input: &[u8],
) -> Result<Option<Value>, Failure> {
    let asked = asked_version(input);
    let fail = |error| Failure {
        version: asked.clone().unwrap_or_else(|| Version::V1_1_0.to_string()),
        error,
    };
    let command = required(environment, "CNI_COMMAND").map_err(fail)?;
    if command == "VERSION" {
        let version = asked.clone().unwrap_or_else(|| Version::V1_1_0.to_string());
        let supported: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        return Ok(Some(json!({ "cniVersion": version, "supportedVersions": supported })));
    }
    let version: Version = asked.as_deref().unwrap_or_default().parse().map_err(fail)?;
    let config = NetConf::parse(input).map_err(fail)?;
    let socket = config.vrouter_socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    let request = build(&command, version, config, environment).map_err(fail)?;
    let answer = ask(&socket, &request).map_err(|error| unreachable(&request, &socket, &error));
    match answer.map_err(fail)? {
        CniReply::Added(result) => Ok(Some(result.to_json(version))),
        CniReply::Done => Ok(None),
        CniReply::Error(error) => Err(fail(error)),
    }
}

/// The version of the configuration, readable even if nothing else of it is.
fn asked_version(input: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(input).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

fn build(
    command: &str,
    version: Version,
    mut config: NetConf,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<CniRequest, CniError> {
    let since = match command {
        "ADD" | "DEL" => Version::V0_3_1,
        "CHECK" => Version::V0_4_0,
        "GC" | "STATUS" => Version::V1_1_0,
        other => {
            return Err(CniError::new(
                ErrorCode::InvalidEnvironment,
                format!(
                    "CNI_COMMAND '{other}' is unknown; right are ADD, DEL, CHECK, GC, STATUS and \
                     VERSION"
                ),
            ));
        }
    };
    if version < since {
        return Err(CniError::new(
            ErrorCode::IncompatibleVersion,
            format!("{command} needs cniVersion {since}, the configuration has {version}"),
        ));
    }
    match command {
        "STATUS" => Ok(CniRequest::Status),
        "GC" => {
            let valid = config.valid_attachments.take().ok_or_else(|| {
                CniError::new(
                    ErrorCode::InvalidNetworkConfig,
                    "GC needs the field cni.dev/valid-attachments",
                )
            })?;
            Ok(CniRequest::Gc(GcRequest { config, valid: valid.into_iter().collect() }))
        }
        _ => build_for_container(command, config, environment),
    }
}

fn build_for_container(
    command: &str,
    mut config: NetConf,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<CniRequest, CniError> {
    let attachment = Attachment {
        container_id: required(environment, "CNI_CONTAINERID")?,
        ifname: required(environment, "CNI_IFNAME")?,
    };
    validate(&attachment)?;
    let args = PodArgs::parse(&environment("CNI_ARGS").unwrap_or_default())?;
    if command == "DEL" {
        // The specification: a namespace that is gone is no reason to fail.
        let netns = environment("CNI_NETNS").map(PathBuf::from);
        return Ok(CniRequest::Del(DelRequest { attachment, netns, args, config }));
    }
    let netns = PathBuf::from(required(environment, "CNI_NETNS")?);
    let previous = config.prev_result.take();
    match (command, previous) {
        ("ADD", None) => Ok(CniRequest::Add(AddRequest { attachment, netns, args, config })),
        ("ADD", Some(_)) => Err(CniError::new(
            ErrorCode::InvalidNetworkConfig,
            format!("network configuration {}: this plugin must be the first", config.name),
        )),
        (_, None) => Err(CniError::new(
            ErrorCode::InvalidNetworkConfig,
            format!("{command} needs the field prevResult"),
        )),
        (_, Some(previous)) => {
            let expected = parse_json(previous.to_string().as_bytes())?;
            Ok(CniRequest::Check(CheckRequest { attachment, netns, args, config, expected }))
        }
    }
}

fn required(environment: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<String, CniError> {
    environment(name).ok_or_else(|| {
        let message = format!("the environment variable {name} is missing");
        CniError::new(ErrorCode::InvalidEnvironment, message)
    })
}

fn validate(attachment: &Attachment) -> Result<(), CniError> {
    let Attachment { container_id, ifname } = attachment;
    let wrong = |message| Err(CniError::new(ErrorCode::InvalidEnvironment, message));
    if !is_name(container_id) {
        return wrong(format!(
            "CNI_CONTAINERID '{container_id}' must start with a letter or digit and consist of \
             letters, digits, '_', '.' and '-'"
        ));
    }
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if ifname.len() > MAX_INTERFACE_NAME || ifname.contains(bad) || [".", ".."].contains(&&**ifname)
    {
        return wrong(format!(
            "CNI_IFNAME '{ifname}' must have at most 15 bytes, no '/', ':' or blanks, and not be \
             '.' or '..'"
        ));
    }
    Ok(())
}

fn ask(socket: &Path, request: &CniRequest) -> io::Result<CniReply> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    send(&stream, request)?;
    receive(&stream)
}

/// The node does not answer: the runtime shall try again, DEL included, else the node would keep
/// what nobody detaches.
fn unreachable(request: &CniRequest, socket: &Path, error: &io::Error) -> CniError {
    let code = match request {
        CniRequest::Status => ErrorCode::NotAvailable,
        _ => ErrorCode::TryAgain,
    };
    let reason = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection without an answer".to_owned(),
        io::ErrorKind::WouldBlock => {
            format!("it did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())
        }
        _ => error.to_string(),
    };
    CniError::new(code, "the vrouter node does not answer")
        .with_details(format!("{}: {reason}", socket.display()))
}
