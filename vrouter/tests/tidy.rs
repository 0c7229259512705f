//! Does the repository keep its own house rules? Arrows between crates, the shape of files, the
//! README's truth, words. What a reviewer would have to look for every time stands here instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, str};

use fastpath::outcome::{DropReason, PuntReason};
use vrouter::api::parse_documents;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Which of our crates each of our crates may use, and must: DESIGN's arrows, exactly.
const ARROWS: &[(&str, &[&str])] = &[
    ("bench", &["fastpath", "policy", "slowpath", "vrouter"]),
    ("fastpath", &[]),
    ("policy", &["fastpath"]),
    ("slowpath", &["fastpath"]),
    ("vrouter", &["fastpath", "policy", "slowpath"]),
];

/// Packages a crate must never list, whatever for (tests excepted).
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "fastpath",
        &["tokio", "async-std", "smol", "serde", "tracing", "log", "kube", "k8s-openapi", "anyhow"],
    ),
    (
        "policy",
        &[
            "tokio", "mio", "nix", "libc", "socket2", "tempfile", "inotify", "kube", "tracing",
            "log",
        ],
    ),
    ("slowpath", &["tokio", "kube", "serde_yaml_ng", "inotify"]),
];

/// The packages this project was asked to stand on, each used in its room.
const ROOMS: &[(&str, &[&str])] = &[
    ("tun", &["fastpath/src/io/"]),
    ("xsk_rs", &["fastpath/src/io/"]),
    ("crossbeam", &["fastpath/src/", "slowpath/src/", "vrouter/src/"]),
    ("etherparse", &["slowpath/src/", "bench/src/"]),
    ("dashmap", &["fastpath/src/flow/"]),
    ("core_affinity", &["fastpath/src/"]),
    ("mio", &["slowpath/src/", "vrouter/src/"]),
];

/// Everything that may stand at the top level.
const TOP_LEVEL: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "bench",
    "deny.toml",
    "deploy",
    "fastpath",
    "policy",
    "rustfmt.toml",
    "slowpath",
    "vrouter",
];

const MAX_LINES: usize = 600;

/// Files above [`MAX_LINES`], with the length they had when they were let in. An entry may only get
/// smaller; when its file fits, it goes.
const RATCHET: &[(&str, usize)] = &[];

/// What no line of ours says, and what to say instead. Each is written in two parts, so that this
/// list does not break its own rule.
const BANNED: &[(&str, &str, &str)] = &[
    ("#[igno", "re", "a test that runs, or none"),
    ("tod", "o!(", "the code"),
    ("unimplemen", "ted!(", "the code"),
    ("FIX", "ME", "the fix, or a comment that says what the limit is"),
    ("white", "list", "allow list"),
    ("/wo", "rk/", "a path relative to the repository"),
    ("/tmp", "/wt", "a path relative to the repository"),
    ("/home", "/", "a path relative to the repository"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a member has a workspace").to_path_buf()
}

/// Every file of the repository that is not ignored, relative to its root.
fn files() -> Vec<String> {
    let git = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"])
        .current_dir(root())
        .output();
    let mut files: Vec<String> = match git {
        Ok(output) if output.status.success() => output
            .stdout
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| str::from_utf8(name).expect("file names are UTF-8").to_owned())
            .collect(),
        // A source archive without its history.
        _ => walk(&root(), ""),
    };
    files.retain(|file| root().join(file).is_file());
    assert!(files.iter().any(|file| file == "Cargo.toml"), "found no repository here");
    files
}

fn walk(dir: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let entry = entry.expect("a readable entry");
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let skipped = ["target", ".git", "bench/fuzz/target", "bench/fuzz/corpus"];
        if skipped.contains(&name.as_str()) {
            continue;
        }
        if entry.path().is_dir() {
            found.extend(walk(&entry.path(), &format!("{name}/")));
        } else {
            found.push(name);
        }
    }
    found
}

fn read(file: &str) -> String {
    let text = fs::read_to_string(root().join(file));
    assert!(text.is_ok(), "{file}: {text:?}");
    text.unwrap_or_default()
}

fn rust_files() -> Vec<(String, String)> {
    let has_rs = |file: &String| Path::new(file).extension().is_some_and(|ext| ext == "rs");
    files().into_iter().filter(has_rs).map(|file| (file.clone(), read(&file))).collect()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata reads the workspace")
}

/// Fails with every offender at once, not with the first.
fn none(what: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{what}:\n  {}", offenders.join("\n  "));
}

#[test]
fn arrows_between_crates_are_the_designed_ones() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let expected: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, expected, "the workspace's crates");
    for package in &metadata.packages {
        let (_, allowed) =
            ARROWS.iter().find(|(name, _)| *name == package.name.as_str()).expect("compared above");
        let used: BTreeSet<&str> = package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.as_str())
            .filter(|name| ours.contains(name))
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(used, allowed, "what {} uses of ours", package.name);
    }
}

#[test]
fn crates_stay_free_of_what_is_not_theirs() {
    let mut offenders = Vec::new();
    for package in &metadata().packages {
        for (_, forbidden) in FORBIDDEN.iter().filter(|(name, _)| *name == package.name.as_str()) {
            for dependency in &package.dependencies {
                let linked = dependency.kind != DependencyKind::Development;
                if linked && forbidden.contains(&dependency.name.as_str()) {
                    offenders.push(format!("{} depends on {}", package.name, dependency.name));
                }
            }
        }
    }
    none("dependencies outside their room", &offenders);
}

#[test]
fn every_chosen_package_is_used_in_its_room() {
    let sources = rust_files();
    let mut offenders = Vec::new();
    for (package, rooms) in ROOMS {
        let path = format!("{package}::");
        for room in *rooms {
            let used = sources.iter().any(|(file, text)| {
                file.starts_with(room) && text.lines().any(|line| names_package(line, &path))
            });
            if !used {
                offenders.push(format!("{package} in {room}"));
            }
        }
    }
    none("packages not used where they belong", &offenders);
}

/// `path` (`tun::`) as a whole word of code, not the end of another path or part of a comment.
fn names_package(line: &str, path: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(path).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
            && (!code[..at].ends_with("::") || code[..at].trim_start().starts_with("::"))
    })
}

#[test]
fn every_rust_file_says_what_it_settles() {
    let silent = |(file, text): &(String, String)| {
        let first = text.lines().next().unwrap_or_default();
        (!first.starts_with("//! ")).then(|| file.clone())
    };
    let offenders: Vec<String> = rust_files().iter().filter_map(silent).collect();
    none("files whose first line is no `//! …`", &offenders);
}

#[test]
fn files_stay_short() {
    let ratchet: BTreeMap<&str, usize> = RATCHET.iter().copied().collect();
    let mut offenders = Vec::new();
    for (file, text) in rust_files() {
        let lines = text.lines().count();
        match ratchet.get(file.as_str()) {
            None if lines > MAX_LINES => {
                offenders.push(format!("{file} has {lines} lines, the limit is {MAX_LINES}"));
            }
            Some(limit) if lines > *limit => {
                offenders.push(format!("{file} has {lines} lines, its ratchet is at {limit}"));
            }
            Some(_) if lines <= MAX_LINES => {
                offenders.push(format!("{file} fits now: take it out of RATCHET"));
            }
            _ => {}
        }
    }
    for (file, _) in RATCHET {
        if !root().join(file).is_file() {
            offenders.push(format!("{file} is gone: take it out of RATCHET"));
        }
    }
    none("file lengths", &offenders);
}

#[test]
fn nothing_else_stands_at_the_top() {
    let offenders: BTreeSet<String> = files()
        .iter()
        .filter_map(|file| file.split('/').next())
        .filter(|name| !TOP_LEVEL.contains(name))
        .map(str::to_owned)
        .collect();
    none("entries at the top level", &offenders.into_iter().collect::<Vec<_>>());
}

#[test]
fn banned_words_are_absent() {
    let text_files = ["rs", "md", "toml", "yaml", "yml", "json", "c", "h", "sh", ""];
    let mut offenders = Vec::new();
    for file in files() {
        let extension = Path::new(&file).extension().map_or("", |e| e.to_str().unwrap_or("?"));
        let Some(text) = text_files
            .contains(&extension)
            .then(|| fs::read_to_string(root().join(&file)).ok())
            .flatten()
        else {
            continue;
        };
        for (head, tail, instead) in BANNED {
            let word = format!("{head}{tail}");
            if let Some(at) = text.find(&word) {
                let line = text[..at].lines().count().max(1);
                offenders.push(format!("{file}:{line}: `{}`: say {instead}", word.escape_debug()));
            }
        }
    }
    none("banned words", &offenders);
}

#[test]
fn errors_have_types() {
    let mut offenders = Vec::new();
    for (file, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let stringly = code.contains("Result<") && code.contains(concat!(", Str", "ing>"));
            // `Result<HashMap<String, String>, Error>` is fine: the error is what comes last.
            let last = code.rsplit("Result<").next().unwrap_or_default();
            let error_is_string = ends_in_string_error(last);
            if stringly && error_is_string {
                offenders.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    none("results whose error is a bare string", &offenders);
}

/// Whether the generic arguments that `arguments` begins with (`T, E> …`) end in `String`.
fn ends_in_string_error(arguments: &str) -> bool {
    let mut depth = 0_i32;
    let mut last = String::new();
    for c in arguments.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if depth == 0 => return last.trim() == "String",
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                last.clear();
                continue;
            }
            _ => {}
        }
        last.push(c);
    }
    false
}

/// The words the README sets in backticks, outside its fenced blocks.
fn readme_words() -> Vec<String> {
    let mut fenced = false;
    let mut words = Vec::new();
    for line in read("README.md").lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            words.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    words
}

/// `word` as a path of this repository, if it looks like one: `bench/tests/x.rs::name` names a file.
fn as_path(word: &str) -> Option<&str> {
    let path = word.split("::").next()?.trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let first = path.split('/').next()?;
    let looks = path.chars().all(plain)
        && if path.contains('/') {
            TOP_LEVEL.contains(&first)
        } else {
            TOP_LEVEL.contains(&path)
                || [".rs", ".toml", ".md"].iter().any(|ext| path.ends_with(ext))
        };
    looks.then_some(path)
}

#[test]
fn every_path_the_readme_names_exists() {
    let words = readme_words();
    let named: BTreeSet<&str> = words.iter().filter_map(|word| as_path(word)).collect();
    assert!(!named.is_empty(), "the README names no path at all");
    let files = files();
    let exists = |path: &str| {
        // A bare `fib.rs` means the one file of that name, wherever it is.
        let tail = format!("/{path}");
        root().join(path).exists()
            || !path.contains('/') && files.iter().any(|file| file.ends_with(&tail))
    };
    let offenders: Vec<String> =
        named.into_iter().filter(|path| !exists(path)).map(str::to_owned).collect();
    none("paths in README.md that do not exist", &offenders);
}

#[test]
fn every_test_the_readme_names_exists() {
    let sources = rust_files();
    let mut offenders = Vec::new();
    for word in readme_words() {
        let Some((file, test)) = word.split_once(".rs::") else { continue };
        let file = format!("{file}.rs");
        let function = test.rsplit("::").next().unwrap_or(test);
        let found = sources.iter().any(|(name, text)| {
            (*name == file || name.ends_with(&format!("/{file}")))
                && text.contains(&format!("fn {function}("))
        });
        if !found {
            offenders.push(word);
        }
    }
    none("tests named in README.md that do not exist", &offenders);
}

#[test]
fn every_make_target_the_readme_names_exists() {
    let makefile = read("Makefile");
    let mut offenders = Vec::new();
    for word in readme_words() {
        let Some(target) = word.strip_prefix("make ").and_then(|rest| rest.split(' ').next())
        else {
            continue;
        };
        if !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))) {
            offenders.push(word);
        }
    }
    none("make targets named in README.md that do not exist", &offenders);
}

#[test]
fn every_reason_has_a_sentence_for_the_operator() {
    let drops = DropReason::ALL.iter().map(|reason| (reason.name(), reason.describe()));
    let punts = PuntReason::ALL.iter().map(|reason| (reason.name(), reason.describe()));
    let mut sentences = BTreeSet::new();
    let mut offenders = Vec::new();
    for (name, sentence) in drops.chain(punts) {
        if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            offenders.push(format!("{name}: names are lower case with hyphens"));
        }
        if sentence.split_whitespace().count() < 3 || sentence.ends_with('.') {
            offenders.push(format!("{name}: \"{sentence}\" is no sentence for a table"));
        }
        if !sentences.insert(sentence) {
            offenders.push(format!("{name}: \"{sentence}\" is another reason's sentence"));
        }
    }
    none("reasons an operator could not act on", &offenders);
}

#[test]
fn the_rules_themselves_catch_what_they_should() {
    assert_eq!(as_path("bench/tests/a.rs::b"), Some("bench/tests/a.rs"));
    assert_eq!(as_path("fastpath/src/io/"), Some("fastpath/src/io"));
    assert_eq!(as_path("and/or"), None);
    assert_eq!(as_path("10.0.0.0/8"), None);
    assert!(names_package("use tun::Device;", "tun::"));
    assert!(!names_package("use crate::io::tun::Device;", "tun::"));
    assert!(!names_package("// tun::Device", "tun::"));
    assert!(ends_in_string_error("Vec<u8>, String> {"));
    assert!(!ends_in_string_error("HashMap<String, String>, Error> {"));
    assert!(!ends_in_string_error("Vec<String>"));
}

#[test]
fn every_example_manifest_is_accepted() {
    let mut offenders = Vec::new();
    let mut objects = 0;
    for file in files() {
        let yaml = Path::new(&file).extension().is_some_and(|extension| extension == "yaml");
        if !(file.starts_with("deploy/examples/") && yaml) {
            continue;
        }
        let parsed = parse_documents(&read(&file), Path::new(&file));
        objects += parsed.objects.len();
        offenders.extend(parsed.refusals.iter().map(ToString::to_string));
        offenders.extend(parsed.warnings.iter().map(ToString::to_string));
    }
    assert!(objects > 0, "there are no examples");
    none("refused or doubted examples", &offenders);
}
