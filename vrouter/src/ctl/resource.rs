//! How does an operator write, read and delete resources?

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    columns,
    output::{self, Exit, Output, Streams},
};
use crate::{
    api::{Key, Kind, Located, Resource, parse_documents},
    datastore::{Datastore, Error},
};

/// What can be done with resources.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create or change the resources of files
    Apply(FileArgs),
    /// Create the resources of files; those that exist are refused
    Create(FileArgs),
    /// Change the resources of files; those that don't exist are refused
    Replace(FileArgs),
    /// Show resources
    Get(GetArgs),
    /// Delete resources
    Delete(DeleteArgs),
}

/// Files of manifests.
#[derive(Clone, Debug, Args)]
pub struct FileArgs {
    /// Files or directories of manifests; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// The namespace of resources that name none
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
}

/// Which resources to show, and how.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// The kind, such as ippool, node, bgppeer, workloadendpoint
    #[arg(required_unless_present = "files")]
    pub kind: Option<String>,
    /// The names; all where there is none
    pub names: Vec<String>,
    /// Show the resources these files name
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "kind")]
    pub files: Vec<PathBuf>,
    /// The namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Which resources to delete.
#[derive(Clone, Debug, Args)]
pub struct DeleteArgs {
    /// The kind
    #[arg(required_unless_present = "files")]
    pub kind: Option<String>,
    /// The names
    #[arg(required_unless_present = "files")]
    pub names: Vec<String>,
    /// Delete the resources these files name
    #[arg(short = 'f', long = "filename", value_name = "FILE", conflicts_with = "kind")]
    pub files: Vec<PathBuf>,
    /// The namespace
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Don't mind resources that don't exist
    #[arg(short, long)]
    pub skip_not_exists: bool,
}

#[derive(Clone, Copy)]
enum Write {
    Apply,
    Create,
    Replace,
}

/// Does what the operator asks, and answers to `out`; what went wrong goes to standard error.
pub fn run(
    command: &Command,
    store: &dyn Datastore,
    out: &mut dyn io::Write,
) -> io::Result<ExitCode> {
    output::with_standard_streams(out, |io| run_with(command, store, io))
}

/// Does what the operator asks.
pub(super) fn run_with(
    command: &Command,
    store: &dyn Datastore,
    io: &mut Streams<'_>,
) -> io::Result<Exit> {
    match command {
        Command::Apply(args) => write_all(args, Write::Apply, store, io),
        Command::Create(args) => write_all(args, Write::Create, store, io),
        Command::Replace(args) => write_all(args, Write::Replace, store, io),
        Command::Get(args) => get(args, store, io),
        Command::Delete(args) => delete(args, store, io),
    }
}

fn write_all(
    args: &FileArgs,
    how: Write,
    store: &dyn Datastore,
    io: &mut Streams<'_>,
) -> io::Result<Exit> {
    let (objects, mut exit) = read_files(&args.files, &args.namespace, io)?;
    for located in objects {
        let place = format!("{}:{}", located.position.file.display(), located.position.line);
        let key = located.resource.key();
        match write_one(located.resource, how, store) {
            Ok(done) => writeln!(io.out, "{key} {done}")?,
            Err(Error::Refused(refusals)) => {
                for refusal in refusals {
                    exit = io.problem(format!("{place}: {refusal}"))?;
                }
            }
            Err(error) => exit = io.problem(format!("{place}: {error}"))?,
        }
    }
    Ok(exit)
}

fn write_one(resource: Resource, how: Write, store: &dyn Datastore) -> Result<&'static str, Error> {
    let key = resource.key();
    let old = match store.get(&key) {
        Ok(old) => Some(old),
        Err(Error::NotFound(_)) => None,
        Err(error) => return Err(error),
    };
    match (how, old) {
        (Write::Create, _) => store.create(resource).map(|_| "created"),
        (Write::Replace, None) => Err(Error::NotFound(key)),
        (Write::Apply, None) => store.apply(resource).map(|_| "created"),
        (Write::Apply | Write::Replace, Some(old)) => {
            let new = store.apply(resource)?;
            Ok(if new == old { "unchanged" } else { "changed" })
        }
    }
}

fn get(args: &GetArgs, store: &dyn Datastore, io: &mut Streams<'_>) -> io::Result<Exit> {
    let (keys, kind, mut exit) =
        match chosen(args.kind.as_deref(), &args.names, &args.files, &args.namespace, io)? {
            Ok(chosen) => chosen,
            Err(exit) => return Ok(exit),
        };
    let mut found = Vec::new();
    for key in &keys {
        match store.get(key) {
            Ok(resource) => found.push(resource),
            Err(error) => exit = io.problem(error)?,
        }
    }
    if let (true, Some(kind)) = (keys.is_empty(), kind) {
        match store.list(kind) {
            Ok(all) => found = all,
            Err(error) => return io.problem(error),
        }
        if kind.namespaced() && !args.all_namespaces {
            found
                .retain(|resource| resource.metadata().namespace.as_ref() == Some(&args.namespace));
        }
    }
    match args.output {
        Output::Json | Output::Yaml => {
            let one = keys.len() == 1 && found.len() == 1;
            let value = if one { found[0].to_value() } else { as_list(kind, &found) };
            args.output.write(&value, io.out)?;
        }
        Output::Table | Output::Wide => {
            let wide = args.output == Output::Wide;
            let kinds: BTreeSet<Kind> = found.iter().map(Resource::kind).chain(kind).collect();
            for (number, kind) in kinds.into_iter().enumerate() {
                if number > 0 {
                    writeln!(io.out)?;
                }
                let of_kind = found.iter().filter(|resource| resource.kind() == kind);
                let table = columns::table(kind, of_kind, wide, args.all_namespaces);
                table.write_plain(io.out, io.width)?;
            }
        }
    }
    Ok(exit)
}

fn as_list(kind: Option<Kind>, found: &[Resource]) -> serde_json::Value {
    let items: Vec<_> = found.iter().map(Resource::to_value).collect();
    match kind {
        Some(kind) => {
            json!({"apiVersion": kind.api_version(), "kind": format!("{kind}List"), "items": items})
        }
        None => json!({"apiVersion": "v1", "kind": "List", "items": items}),
    }
}

fn delete(args: &DeleteArgs, store: &dyn Datastore, io: &mut Streams<'_>) -> io::Result<Exit> {
    let (keys, _, mut exit) =
        match chosen(args.kind.as_deref(), &args.names, &args.files, &args.namespace, io)? {
            Ok(chosen) => chosen,
            Err(exit) => return Ok(exit),
        };
    for key in keys {
        match store.delete(&key, None) {
            Ok(_) => writeln!(io.out, "{key} deleted")?,
            Err(Error::NotFound(_)) if args.skip_not_exists => {}
            Err(error) => exit = io.problem(error)?,
        }
    }
    Ok(exit)
}

type Chosen = (Vec<Key>, Option<Kind>, Exit);

/// The keys a command is about, from its words or its files.
fn chosen(
    kind: Option<&str>,
    names: &[String],
    files: &[PathBuf],
    namespace: &str,
    io: &mut Streams<'_>,
) -> io::Result<Result<Chosen, Exit>> {
    let Some(word) = kind else {
        let (objects, exit) = read_files(files, namespace, io)?;
        return Ok(Ok((
            objects.iter().map(|located| located.resource.key()).collect(),
            None,
            exit,
        )));
    };
    let Some(kind) = Kind::from_word(word) else {
        let known: Vec<String> =
            Kind::ALL.iter().map(|kind| kind.as_str().to_ascii_lowercase()).collect();
        io.problem(format!("{word}: unknown kind; known are {}", known.join(", ")))?;
        return Ok(Err(Exit::Usage));
    };
    let key = |name: &String| {
        let namespace = kind.namespaced().then(|| namespace.to_owned());
        Key { kind, namespace, name: name.clone() }
    };
    Ok(Ok((names.iter().map(key).collect(), Some(kind), Exit::Done)))
}

/// The valid objects of files; what is refused is told.
fn read_files(
    files: &[PathBuf],
    namespace: &str,
    io: &mut Streams<'_>,
) -> io::Result<(Vec<Located>, Exit)> {
    let mut objects = Vec::new();
    let mut exit = Exit::Done;
    for (path, text) in texts(files, io) {
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                exit = io.problem(format!("{}: cannot be read: {error}", path.display()))?;
                continue;
            }
        };
        let parsed = parse_documents(&text, &path);
        for refusal in &parsed.refusals {
            exit = io.problem(refusal)?;
        }
        for warning in &parsed.warnings {
            writeln!(io.err, "warning: {warning}")?;
        }
        objects.extend(parsed.objects);
    }
    // A manifest without a namespace was read as one of `default`.
    for located in &mut objects {
        let metadata = located.resource.metadata_mut();
        if metadata.namespace.as_deref() == Some("default") {
            namespace.clone_into(metadata.namespace.get_or_insert_default());
        }
    }
    Ok((objects, exit))
}

type Text = (PathBuf, io::Result<String>);

fn texts(files: &[PathBuf], io: &mut Streams<'_>) -> Vec<Text> {
    let mut texts = Vec::new();
    for file in files {
        if file == Path::new("-") {
            let mut text = String::new();
            let read = io.input.read_to_string(&mut text).map(|_| text);
            texts.push((PathBuf::from("standard input"), read));
        } else if file.is_dir() {
            match manifests(file) {
                Ok(found) => texts.extend(
                    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path))),
                ),
                Err(error) => texts.push((file.clone(), Err(error))),
            }
        } else {
            texts.push((file.clone(), std::fs::read_to_string(file)));
        }
    }
    texts
}

fn manifests(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_file()
            && path
                .extension()
                .is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known))
        {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}
