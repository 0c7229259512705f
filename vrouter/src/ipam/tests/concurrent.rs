//! Is no address ever given twice or lost, with many threads and processes at one directory, some of which die?

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use proptest::prelude::*;

use super::*;

const DIRECTORY: &str = "VROUTER_TEST_IPAM_DIRECTORY";
const WORKER: &str = "VROUTER_TEST_IPAM_WORKER";

/// Assigns and releases at random. Whoever has an address puts a file with its name into `held` and takes it away
/// before the release, so a second owner would find it there.
fn churn(dir: &Path, worker: u64, steps: u64) {
    let store = FileStore::open(dir.join("objects")).unwrap();
    let node = format!("node-{}", worker % 3);
    let ipam = Ipam::new(&store, node);
    let mut mine: Vec<(String, IpAddr)> = Vec::new();
    let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for step in 0..steps {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random % 5 < 3 {
            let handle = format!("h-{worker}-{step}");
            match ipam.assign(&request(&handle)) {
                Ok(got) => {
                    let held = fs::File::options()
                        .write(true)
                        .create_new(true)
                        .open(dir.join("held").join(got.address.to_string()));
                    assert!(held.is_ok(), "{} was given twice", got.address);
                    mine.push((handle, got.address));
                }
                Err(IpamError::Exhausted { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        } else if !mine.is_empty() {
            let (handle, address) =
                mine.swap_remove(usize::try_from(random >> 8).unwrap() % mine.len());
            fs::remove_file(dir.join("held").join(address.to_string())).unwrap();
            assert_eq!(ipam.release_handle(&handle).unwrap(), [address]);
        }
    }
}

fn prepared() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("held")).unwrap();
    let store = FileStore::open(dir.path().join("objects")).unwrap();
    pool(&store, "p", "10.0.0.0/26", 29, |_| {});
    dir
}

fn held(dir: &Path) -> BTreeSet<IpAddr> {
    let names = fs::read_dir(dir.join("held")).unwrap();
    names.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// What the objects say is what the workers hold; and with every handle released nothing is in use.
fn verify(dir: &Path, whole: bool) {
    let store = FileStore::open(dir.join("objects")).unwrap();
    let owners = consistent(&store);
    if whole {
        assert_eq!(owners.keys().copied().collect::<BTreeSet<_>>(), held(dir));
        assert_eq!(list::<IpamHandle>(&store).unwrap().len(), owners.len());
    }
    let ipam = Ipam::new(&store, "node-0");
    for handle in list::<IpamHandle>(&store).unwrap() {
        ipam.release_handle(&handle.spec.handle_id).unwrap();
    }
    assert_eq!(consistent(&store), BTreeMap::new());
    assert!(list::<IpamHandle>(&store).unwrap().is_empty());
}

#[test]
fn threads() {
    let dir = prepared();
    thread::scope(|scope| {
        for worker in 0..6 {
            let path = dir.path();
            scope.spawn(move || churn(path, worker, 30));
        }
    });
    verify(dir.path(), true);
}

/// What a process of the tests below runs; by itself it is one worker with nobody else.
#[test]
fn worker_process() {
    if let (Some(directory), Ok(worker)) = (std::env::var_os(DIRECTORY), std::env::var(WORKER)) {
        churn(Path::new(&directory), worker.parse().unwrap(), 40);
    } else {
        let dir = prepared();
        churn(dir.path(), 0, 20);
        verify(dir.path(), true);
    }
}

fn spawn(dir: &Path, worker: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ipam::tests::concurrent::worker_process"])
        .env(DIRECTORY, dir)
        .env(WORKER, worker.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes() {
    let dir = prepared();
    let children: Vec<Child> = (0..5).map(|worker| spawn(dir.path(), worker)).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    verify(dir.path(), true);
}

#[test]
fn processes_that_die() {
    let dir = prepared();
    let lasting: Vec<Child> = (0..2).map(|worker| spawn(dir.path(), worker)).collect();
    for worker in 10..16 {
        let mut child = spawn(dir.path(), worker);
        // Dies at a moment that differs from run to run, once it has begun to write.
        while fs::read_dir(dir.path().join("held")).unwrap().count() == 0 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(10 + 7 * (worker - 10)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for mut child in lasting {
        assert!(child.wait().unwrap().success());
    }
    verify(dir.path(), false);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A block after any history: every address is free or held, once, and the owners known are those that hold.
    #[test]
    fn a_block_always_adds_up(steps in prop::collection::vec((any::<bool>(), 0_usize..6), 0..60)) {
        let mut block = block::empty("10.0.0.0/29".parse().unwrap(), "a", false, String::new());
        let mut held: BTreeMap<usize, usize> = BTreeMap::new();
        for (take, owner) in steps {
            let handle = format!("h{owner}");
            if take {
                let Some(ordinal) = block::next_free(&block, &[]) else { prop_assert_eq!(held.len(), 8); continue };
                let attribute = crate::api::ipam::AllocationAttribute { handle_id: Some(handle), ..Default::default() };
                block::take(&mut block, ordinal, attribute);
                prop_assert!(held.insert(ordinal, owner).is_none());
            } else {
                let theirs = block::held_by(&block, &handle);
                let released = block::give_back(&mut block, &theirs);
                prop_assert_eq!(released.len(), held.values().filter(|held| **held == owner).count());
                held.retain(|_, held| *held != owner);
            }
            prop_assert_eq!(block.in_use(), held.len());
            prop_assert_eq!(block.unallocated.len(), 8 - held.len());
            prop_assert_eq!(block.attributes.len(), held.values().collect::<BTreeSet<_>>().len());
            let known = block.sequence_number_for_allocation.keys().map(|ordinal| ordinal.parse::<usize>().unwrap());
            prop_assert_eq!(known.collect::<BTreeSet<_>>(), held.keys().copied().collect::<BTreeSet<_>>());
        }
    }
}
