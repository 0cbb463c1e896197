//! Runs the commands of the tour in README.md against a demo, and compares their answers with the README.
//!
//! All fenced `sh` blocks run in the same shell, one after the other. A fenced block without a language directly after
//! an `sh` block is the expected answer. In an answer, a line `...` stands for any lines, and `<name>` stands for any
//! text. Only a block whose answer begins with `ERROR:` may fail.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use boxoffice::rpc::proto::{self, concert_service_client::ConcertServiceClient};
use testkit::process::{self, ScratchDir};

use crate::{
    harness::{Engine, FreshDatabase, connect, eventually},
    running,
};

const LIMIT: Duration = Duration::from_secs(120);
/// The addresses of the demo in the README, which other programs may use.
const PUBLIC: &str = "127.0.0.1:50051";
const ADMIN: &str = "127.0.0.1:50052";

/// A block of commands and the answer that follows it.
struct Block {
    commands: String,
    answer: Option<String>,
}

impl Block {
    fn may_fail(&self) -> bool {
        self.answer.as_ref().is_some_and(|answer| answer.starts_with("ERROR:"))
    }
}

/// Returns the blocks of a section.
fn blocks(text: &str, section: &str) -> Vec<Block> {
    let heading = format!("\n## {section}\n");
    let text = text.split(&heading).nth(1).unwrap_or_else(|| panic!("there is no section {section}"));
    let text = text.split("\n## ").next().unwrap_or_default();
    let mut blocks: Vec<Block> = Vec::new();
    // Fences separate prose from blocks.
    let parts: Vec<&str> = text.split("```").collect();
    for pair in parts.chunks(2) {
        let [prose, fenced] = pair else { continue };
        let (language, body) = fenced.split_once('\n').expect("a line after the fence");
        match language {
            "sh" => blocks.push(Block { commands: body.to_owned(), answer: None }),
            "" if prose.trim().is_empty() => {
                blocks.last_mut().expect("commands before the answer").answer = Some(body.to_owned());
            }
            other => panic!("a block {other:?} that is neither commands nor their answer:\n{body}"),
        }
    }
    blocks
}

/// Returns whether `lines` match the pattern.
fn is_shown(pattern: &[&str], lines: &[&str]) -> bool {
    match (pattern, lines) {
        ([], []) => true,
        ([first, rest @ ..], _) if first.trim() == "..." => {
            (0..=lines.len()).any(|skipped| is_shown(rest, &lines[skipped..]))
        }
        ([first, pattern @ ..], [line, lines @ ..]) => is_line(first, line) && is_shown(pattern, lines),
        _ => false,
    }
}

/// Returns whether a line matches the pattern. In the pattern, `<name>` stands for any text.
fn is_line(pattern: &str, line: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('<') else { return pattern == line };
    let Some((_, after)) = rest.split_once('>') else { return pattern == line };
    let Some(line) = line.strip_prefix(before) else { return false };
    (1..=line.len()).any(|end| line.is_char_boundary(end) && is_line(after, &line[end..]))
}

/// Returns the path of grpcurl: a program on the PATH, or the program that `make grpcurl` installs.
fn grpcurl() -> PathBuf {
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let mut dirs: Vec<PathBuf> = on_path;
    dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin"));
    let found = dirs.into_iter().map(|dir| dir.join("grpcurl")).find(|program| program.exists());
    found.expect("grpcurl is missing: install it with `make grpcurl`")
}

/// Creates a directory with a script `grpcurl`. The script calls the server at other addresses, and writes the exit
/// code of each call to a file.
fn stand_in(public: &str, admin: &str) -> ScratchDir {
    let dir = ScratchDir::new().expect("a directory");
    let script = format!(
        "#!/bin/sh
for argument; do
    shift
    case \"$argument\" in {PUBLIC}) argument={public};; {ADMIN}) argument={admin};; esac
    set -- \"$@\" \"$argument\"
done
'{}' \"$@\"
code=$?
echo $code >>\"$CODES\"
exit $code
",
        grpcurl().display()
    );
    let program = dir.path().join("grpcurl");
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("an executable file");
    dir
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tour_of_the_readme_runs_as_it_stands() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = blocks(&readme, "A tour");
    assert!(blocks.len() >= 6 && blocks.iter().filter(|block| block.answer.is_some()).count() >= 2);

    let database = FreshDatabase::new(Engine::Sqlite).await;
    let mut server = running::serve(&database.url, &["--demo", "--demo-crowd", "0"]).await;
    let channel = connect(server.address).await;
    eventually("the demo is there", async || {
        let request = proto::ListConcertsRequest::default();
        let concerts = ConcertServiceClient::new(channel.clone()).list_concerts(request).await;
        concerts.is_ok_and(|response| response.get_ref().concerts.len() == 3)
    })
    .await;
    let dir = stand_in(&server.address.to_string(), &server.admin_address.to_string());
    let file = |name: String| dir.path().join(name);
    let mut script = String::new();
    for (block, index) in blocks.iter().zip(0..) {
        let (codes, output) = (file(format!("{index}.codes")), file(format!("{index}.output")));
        script += &format!("export CODES='{}'\nexec >'{}' 2>&1\n", codes.display(), output.display());
        script += &block.commands;
    }
    let path = format!("{}:{}", dir.path().display(), env::var("PATH").unwrap_or_default());
    let shell = process::output(Command::new("sh").args(["-c", &script]).env("PATH", path), LIMIT).await.unwrap();
    assert!(shell.status.success(), "{shell:?}");

    for (block, index) in blocks.iter().zip(0..) {
        let read = |name: String| fs::read_to_string(file(name)).expect("a file of the shell");
        let (codes, output) = (read(format!("{index}.codes")), read(format!("{index}.output")));
        let failed = codes.lines().filter(|code| *code != "0").count();
        let Block { commands, answer } = block;
        assert_eq!(failed, usize::from(block.may_fail()), "{commands}\nanswers\n{output}");
        assert!(!output.trim().is_empty(), "{commands}\nanswers nothing");
        if let Some(answer) = answer {
            let (pattern, lines): (Vec<&str>, Vec<&str>) = (answer.lines().collect(), output.lines().collect());
            assert!(is_shown(&pattern, &lines), "{commands}\nshould answer\n{answer}\nand answers\n{output}");
        }
    }
    running::stop(&mut server).await;
}

#[test]
fn an_answer_is_compared_line_by_line() {
    let lines = ["{", "  \"id\": \"0192\",", "  \"state\": \"PAID\"", "}"];
    assert!(is_shown(&["{", "  \"id\": \"<id>\",", "..."], &lines));
    assert!(is_shown(&["{", "  ...", "  \"state\": \"PAID\"", "}"], &lines));
    assert!(!is_shown(&["{", "  \"id\": \"<id>\","], &lines));
    assert!(!is_shown(&["{", "  ...", "  \"state\": \"HELD\"", "}"], &lines));
    assert!(is_line("a <x> c <y>", "a b c d") && !is_line("a <x> c <y>", "a b d") && !is_line("a<x>", "a"));
}

#[test]
fn answers_belong_to_the_commands_before_them() {
    let text = "\n## Other\n```sh\nno\n```\n## Tour\nDo:\n\n```sh\none\ntwo\n```\n\n```\nERROR:\n```\n\nThen:\n\n\
                ```sh\nsix\n```\n## End\n";
    let blocks = blocks(text, "Tour");
    assert_eq!(blocks.iter().map(|block| block.commands.as_str()).collect::<Vec<_>>(), ["one\ntwo\n", "six\n"]);
    assert!(blocks[0].may_fail() && !blocks[1].may_fail());
}
