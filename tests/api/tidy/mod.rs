//! Checks the rules for the structure of the code.

mod imports;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 120;

/// The rooms of `src/`, from top to bottom. Each room may use only the rooms after it.
const ROOMS: [&str; 17] = [
    "app",
    "forward",
    "live",
    "payment",
    "admin",
    "events",
    "reservation",
    "concert",
    "queue",
    "catalogue",
    "wallet",
    "edge",
    "token",
    "batch",
    "db",
    "rpc",
    "clock",
];

/// The files and directories that may use tonic. Names of directories end in `/`.
const TONIC: [&str; 6] = ["service.rs", "app/", "rpc/", "token/", "edge/", "main.rs"];
/// The files and directories that may use SeaORM.
const SEA_ORM: [&str; 2] = ["store.rs", "db/"];
/// The files that may use OpenTelemetry.
const OPENTELEMETRY: [&str; 2] = ["rpc/trace.rs", "app/traces.rs"];

fn sources(dir: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![root.join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the root").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("a source")));
            }
        }
    }
    assert!(!found.is_empty(), "no sources in {dir}");
    found
}

fn all_sources() -> Vec<(String, String)> {
    ["src", "tests", "migration/src", "testkit/src", "bench/src"].into_iter().flat_map(sources).collect()
}

fn allowed(name: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| {
        if room.ends_with('/') { name.contains(&format!("/{room}")) } else { name.ends_with(&format!("/{room}")) }
    })
}

/// Returns the part of a source before its unit tests.
fn code(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests").next().unwrap_or(source)
}

fn uses(source: &str, krate: &str) -> bool {
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let named = |line: &str| line.contains(&format!("{krate}::")) || line.contains(&format!("use {krate}"));
    code(source).lines().filter(is_code).any(named)
}

#[test]
fn tonic_stays_in_its_rooms() {
    for (name, source) in sources("src") {
        assert!(
            allowed(&name, &TONIC) || !uses(&source, "tonic"),
            "{name} uses tonic; move this code into one of {TONIC:?}"
        );
    }
}

#[test]
fn sea_orm_stays_in_its_rooms() {
    for (name, source) in sources("src") {
        assert!(
            allowed(&name, &SEA_ORM) || !uses(&source, "sea_orm"),
            "{name} uses sea_orm; move this code into one of {SEA_ORM:?}"
        );
    }
}

#[test]
fn opentelemetry_stays_in_two_files() {
    for (name, source) in sources("src") {
        let uses_it =
            ["opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"].iter().any(|krate| uses(&source, krate));
        assert!(allowed(&name, &OPENTELEMETRY) || !uses_it, "{name} uses OpenTelemetry");
    }
}

#[test]
fn a_capability_never_calls_the_store_of_another_one() {
    for (name, source) in sources("src") {
        let capabilities =
            ["catalogue", "concert", "queue", "reservation", "wallet", "payment", "admin", "events", "live"];
        for capability in capabilities {
            let foreign = !name.starts_with(&format!("src/{capability}/"));
            let called = code(&source).contains(&format!("{capability}::store"));
            assert!(!(foreign && called), "{name} calls the store of {capability}");
        }
    }
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let room_of = |name: &str| name["src/".len()..].trim_end_matches(".rs").split('/').next().map(str::to_owned);
    let mut seen = BTreeSet::new();
    for (name, source) in sources("src") {
        let room = room_of(&name).filter(|room| room != "lib" && room != "main");
        let Some(room) = room else { continue };
        let place = ROOMS.iter().position(|known| *known == room);
        let place = place.unwrap_or_else(|| panic!("{name} is not in a room of ROOMS"));
        for used in imports::rooms_used(&source) {
            let below = used == room || ROOMS[place..].contains(&used.as_str());
            assert!(below || !ROOMS.contains(&used.as_str()), "{name} uses {used}, which is above its room in ROOMS");
        }
        seen.insert(room);
    }
    assert_eq!(seen.len(), ROOMS.len(), "ROOMS contains rooms that do not exist: {seen:?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for (dir, least) in [("src/", 100), ("testkit/src/", 3), ("bench/src/", 50)] {
        let sources: Vec<_> = sources(dir)
            .into_iter()
            .map(|(name, text)| (name[dir.len()..].to_owned(), code(&text).to_owned()))
            .collect();
        let arrows = imports::Imports::new(&sources).arrows();
        let count = arrows.values().map(BTreeSet::len).sum::<usize>();
        assert!(count > least, "the imports of {dir} were not read: {arrows:?}");
        assert_eq!(imports::circle(&arrows), None, "{dir}");
    }
}

#[test]
fn no_module_has_a_path_attribute_or_allows_dead_code() {
    for (name, source) in all_sources() {
        for attribute in ["[path =", "(dead_code"] {
            let is_used = source.lines().any(|line| line.trim_start().starts_with('#') && line.contains(attribute));
            assert!(!is_used, "{name} has an attribute {attribute}");
        }
    }
}

#[test]
fn files_stay_small() {
    for (name, source) in all_sources() {
        let lines = source.lines().count();
        assert!(lines <= MAX_FILE_LINES, "{name} has {lines} lines");
    }
}

#[test]
fn lines_fit_the_screen() {
    for (name, source) in all_sources() {
        for (line, number) in source.lines().zip(1..) {
            assert!(line.chars().count() <= MAX_COLUMNS, "{name}:{number} is longer than {MAX_COLUMNS} columns");
        }
    }
}

#[test]
fn functions_stay_short() {
    for (name, source) in all_sources() {
        let lines: Vec<&str> = source.lines().collect();
        let mut start: Option<(usize, usize)> = None;
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            let head = text.trim_start_matches("pub ").trim_start_matches("pub(super) ");
            let head = head.trim_start_matches("async ");
            if head.starts_with("fn ") && !text.ends_with(';') {
                start = Some((number, indent));
            }
            if let Some((first, at)) = start
                && indent == at
                && text == "}"
            {
                let length = number - first + 1;
                assert!(length <= MAX_FUNCTION_LINES, "{name}:{} has {length} lines", first + 1);
                start = None;
            }
        }
    }
}

#[test]
fn nothing_in_the_service_may_panic_on_a_request() {
    for (name, source) in sources("src") {
        let forbidden = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];
        for word in forbidden {
            assert!(!code(&source).contains(word), "{name} contains {word}, which may panic; return an error instead");
        }
    }
}

#[test]
fn the_machines_clock_is_read_in_one_place() {
    for (name, source) in sources("src") {
        let reads = ["SystemTime::now", "Utc::now", "Local::now"].iter().any(|word| source.contains(word));
        assert!(!reads || name == "src/clock.rs", "{name} reads the machine's clock; use Clock instead");
    }
}
