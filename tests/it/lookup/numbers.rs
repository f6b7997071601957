//! Numbers of the pages that the program has too: exit codes, limits, and the defaults of the keys below `backends`.
//!
//! An exit code on a page is that of a command which runs here. A limit is a constant of `src`. The table of limits has those that a reader plans
//! with. It cannot find a limit that nobody wrote into it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{pages, root};
use crate::folder;
use crate::support::{apart, files_below, run};

/// Page, text with `{}` for the code, and a command that ends with it. The commands run in the folder of [`PREPARED`].
const CODES: [(&str, &str, &str); 40] = [
    ("docs/check.md", "Exit code {}: no fault", "keyferry check class.yaml"),
    ("docs/check.md", "; {}: faults, no class at all, or with", "keyferry check wrong.yaml"),
    ("docs/check.md", "; {}: faults, no class at all, or with", "keyferry check own.env"),
    ("docs/check.md", "; {}: faults, no class at all, or with `--strict` warnings;", "keyferry check --strict odd.yaml"),
    ("docs/check.md", "; {}: `check` cannot read a file, or an argument is wrong", "keyferry check absent"),
    ("docs/check.md", "; {}: `check` cannot read a file, or an argument is wrong", "keyferry check --none class.yaml"),
    ("docs/commands.md", "Exit codes: {} done, fine or yes", "keyferry can read files/shop/db --as shop/web --config good.yaml"),
    ("docs/commands.md", "; {} it failed, or no;", "keyferry can read files/shop/db --as bank/web --config good.yaml"),
    ("docs/commands.md", "; {} wrong arguments or configuration,", "keyferry can read files/shop/db --as shop/web --config faulty.yaml"),
    ("docs/commands.md", "; {} after Ctrl-C", "timeout --preserve-status -s INT 1 keyferry health --socket none --wait 30s"),
    ("docs/commands.md", "also with exit code {}.", "keyferry can read files/shop/db --as bank/web --config good.yaml -o json"),
    ("docs/commands.md", "Exit code {} means yes,", "keyferry can read files/shop/db --as shop/web --config good.yaml"),
    ("docs/commands.md", "means yes, {} means no.", "keyferry can read files/shop/db --as bank/web --config good.yaml"),
    ("docs/configuration.md", "key and remedy, and ends with exit code {}:", "keyferry serve --config faulty.yaml"),
    ("docs/configuration.md", "find at once, with exit code {}:", "keyferry serve --config absent.yaml"),
    (
        "docs/configuration.md",
        "| {} | a signal stopped it, and every mount",
        "timeout --preserve-status 4 keyferry serve --config good.yaml",
    ),
    ("docs/configuration.md", "| {} | the arguments or the configuration have faults", "keyferry serve --none"),
    ("docs/configuration.md", "| {} | | Ctrl-C |", "timeout --preserve-status -s INT 1 keyferry health --socket none --wait 30s"),
    ("docs/doctor.md", "| {} | something fails |", "keyferry doctor --config good.yaml"),
    ("docs/doctor.md", "| {} | `doctor` could not judge: the configuration has faults", "keyferry doctor --config faulty.yaml"),
    ("docs/exec.md", "| {} | there is no such command", "keyferry exec --env-file own.env -- ./none"),
    ("docs/exec.md", "| {} | the command cannot run: it is not executable", "keyferry exec --env-file own.env -- ./own.env"),
    ("docs/exec.md", "| {} | a file has something that is not allowed", "keyferry exec --env-file bad.env -- true"),
    ("docs/exec.md", "| {} | a file has something that is not allowed", "keyferry exec --env-file own.env --only B -- true"),
    ("docs/exec.md", "| {} | wrong arguments, or a file that cannot be read", "keyferry exec --env-file none.env -- true"),
    ("docs/file-vault.md", "With `--exit-code` it ends with {} if they differ", "keyferry vault diff --exit-code shop/db"),
    ("docs/file-vault.md", "Exit codes: {} done;", "keyferry vault get shop/db"),
    ("docs/file-vault.md", "; {} could not be done;", "keyferry vault get shop/none"),
    ("docs/file-vault.md", "; {} wrong arguments, or a file or vault that you named", "keyferry vault get shop/db --none"),
    ("docs/file-vault.md", "; {} wrong arguments, or a file or vault that you named", "keyferry vault get shop/db --vault none"),
    ("docs/file-vault.md", "; {} wrong arguments, or a file or vault that you named", "keyferry vault get shop/db --identity none"),
    ("docs/file-vault.md", "also ends with {} if standard input or output is not a terminal", "keyferry vault edit shop/db"),
    ("docs/file-vault.md", "stay as they are, and the exit code is {}.", "keyferry vault rekey --skip-unreadable --vault broken"),
    ("docs/identity.md", "It says why, with exit code {}.", "keyferry serve --config keyless.yaml"),
    ("docs/keys.md", "the command names it, and the exit code is {}.", "keyferry vault rekey --dry-run --vault broken"),
    ("docs/monitoring.md", "| {} | the daemon answered, also if there are problems |", "sh served.sh keyferry status --config good.yaml"),
    ("docs/monitoring.md", "| {} | the daemon did not answer |", "keyferry status --config good.yaml"),
    ("docs/monitoring.md", "| {} | wrong arguments, or a configuration that cannot be read", "keyferry status --none"),
    ("docs/monitoring.md", "| {} | wrong arguments, or a configuration that cannot be read", "keyferry status --config none.yaml"),
    ("docs/file-vault.md", "; {} after Ctrl-C", "timeout --preserve-status -s INT 1 keyferry health --socket none --wait 30s"),
];

/// Page, text and code that another test runs, because it needs more than a command.
const ELSEWHERE: [(&str, &str, &str); 6] = [
    ("docs/configuration.md", "| 1 | it stopped, but cut off mounts after 10 s", "a_mount_that_hangs_is_cut_off"),
    ("docs/doctor.md", "| 0 | nothing fails.", "a_node_that_is_well"),
    ("docs/file-vault.md", "the command says so (exit code 2).", "it_is_for_a_person_who_has_an_editor"),
    ("docs/file-vault.md", "if the editor fails (exit code 1).", "who_gives_up_has_changed_nothing"),
    ("docs/file-vault.md", "Keyferry writes nothing (exit code 1). - **Another", "who_gives_up_has_changed_nothing"),
    ("docs/file-vault.md", "Keyferry writes nothing (exit code 1). The message", "what_has_moved_meanwhile_is_not_written_over"),
];

/// What the commands of [`CODES`] find.
const PREPARED: &str = r#"
set -e
keyferry vault init
for password in b c; do keyferry vault set shop/db user=a password=$password; done
cp -r vault broken
echo junk >broken/shop/db.age
echo 'socketdir: /run' >faulty.yaml
cat >good.yaml <<END
socketDir: $PWD/run
stateDir: $PWD/state
kubeletDir: $PWD
allowedPeers: [$(id -u)]
identity: { verify: driver }
backends: { files: { kind: file, vault: $PWD/vault, identity: $PWD/age.key } }
policy: [{ pods: { namespace: shop }, read: ["files/shop/**"] }]
END
sed s/age.key/absent.key/ good.yaml >absent.yaml
sed 's/verify: driver/verify: jwks/' good.yaml >keyless.yaml
echo A=1 >own.env
echo LD_PRELOAD=1 >bad.env
keyferry example one-container >class.yaml
sed 's/field:/feild:/' class.yaml >wrong.yaml
sed 's/field: .*/&\n        mode: 444/' class.yaml >odd.yaml
cat >served.sh <<'END'
keyferry serve --config good.yaml &
keyferry health --socket run/keyferry.sock --wait 30s && "$@"
code=$?
kill $! && wait $!
exit $code
END
"#;

/// What a page's text is without its line ends.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Where a text has an exit code: `exit code 2`, `ends with 2`, `Exit codes: 0 done`.
fn mentions(text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric())).collect();
    let begins = |at: usize| {
        let is_code = ["code", "codes"].contains(&words[at]) && at > 0 && words[at - 1].eq_ignore_ascii_case("exit");
        is_code || ["ends", "exits", "ended"].contains(&words[at])
    };
    let number = |at: usize| {
        let next = words[at + 1..].iter().find(|word| !["also", "code", "is", "with"].contains(word))?;
        next.parse::<u8>().ok().map(|code| format!("{} {code}", words[at]))
    };
    (0..words.len()).filter(|&at| begins(at)).filter_map(number).collect()
}

/// The rows of the tables with codes.
fn rows(page: &str) -> Vec<String> {
    let (mut found, mut inside) = (Vec::new(), false);
    for line in page.lines() {
        inside = line.starts_with("| exit code |") || line.starts_with("| code |") || inside && line.starts_with('|');
        let is_code = line.split(" | ").next().and_then(|first| first.strip_prefix("| ")?.parse::<u8>().ok()).is_some();
        found.extend(Some(line.to_owned()).filter(|_| inside && is_code));
    }
    found
}

/// The places of a page that no text covers.
fn uncovered(page: &str, texts: &[String]) -> Vec<String> {
    let rest = texts.iter().fold(joined(page), |rest, text| rest.replace(text.as_str(), ""));
    let rows = rows(page).into_iter().filter(|row| !texts.iter().any(|text| row.starts_with(text)));
    mentions(&rest).into_iter().chain(rows).collect()
}

#[test]
fn exit_codes_of_the_pages_are_those_of_the_commands() {
    let folder = folder::new();
    let programs = Path::new(env!("CARGO_BIN_EXE_keyferry")).parent().unwrap();
    let shell = |script: &str| {
        let mut command = apart("sh");
        command.args(["-c", script]).current_dir(folder.path()).env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        command.env("KEYFERRY_VAULT", "vault").env("KEYFERRY_IDENTITY", "age.key");
        run(&mut command, "")
    };
    assert_eq!(shell(PREPARED).0, 0);
    let sources: String = files_below(&root().join("tests/it"), "rs").iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let pages = pages();
    let text = |name: &str| joined(&pages.iter().find(|(page, _)| page == name).unwrap().1);
    let (mut wrong, mut covered) = (Vec::new(), Vec::new());
    for (page, text_of, command) in CODES {
        let (code, out, err) = shell(command);
        let expected = text_of.replace("{}", &code.to_string());
        if !text(page).contains(&expected) {
            wrong.push(format!("{page} does not say {expected:?}, which is the code of `{command}`: {out}{err}"));
        }
        covered.push((page, expected));
    }
    for (page, expected, test) in ELSEWHERE {
        if !text(page).contains(expected) || !sources.contains(&format!("fn {test}(")) {
            wrong.push(format!("{page} does not say {expected:?}, or there is no test {test}"));
        }
        covered.push((page, expected.to_owned()));
    }
    for (page, text) in &pages {
        let texts: Vec<String> = covered.iter().filter(|(of, _)| of == page).map(|(_, text)| text.clone()).collect();
        wrong.extend(uncovered(text, &texts).into_iter().map(|place| format!("{page}: no command shows that this is true: {place}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Page, text with `{}` for the limit, and file and name of the constant.
const LIMITS: [(&str, &str, &str, &str); 106] = [
    ("docs/audit.md", "A line has at most {}, with its line end", "audit/line.rs", "LINE"),
    ("docs/audit.md", "A daemon that starts waits {} for one that ends", "audit/destination.rs", "WAIT"),
    ("docs/audit.md", "A rule's table has {} entries", "audit/alerts/tally.rs", "ENTRIES"),
    ("docs/audit.md", "there are more than {} volumes", "audit/repeats.rs", "VOLUMES"),
    ("docs/aws.md", "A mount asks for up to {} secrets, or", "backend/store/aws/secretsmanager.rs", "BATCH"),
    ("docs/aws.md", "secrets, or up to {} parameters, with one", "backend/store/aws/parameters.rs", "BATCH"),
    ("docs/cache.md", "If an answer is kept, Keyferry waits {} for the store", "backend/stack/cache/standby.rs", "PATIENCE"),
    ("docs/cache.md", "One thread writes, every {}.", "backend/stack/cache/archive/writer.rs", "PACE"),
    ("docs/cache.md", "while the clock is more than {} behind", "backend/stack/cache/archive/index.rs", "BEHIND"),
    ("docs/cache.md", "regular files of at most {} that have", "backend/stack/sealed/mod.rs", "MAX_FILE"),
    ("docs/classes.md", "An expression has at most {} bytes and", "model/query.rs", "MAX_LENGTH"),
    ("docs/classes.md", "bytes and {} operators.", "model/query.rs", "MAX_OPERATORS"),
    ("docs/classes.md", "One object has at most {} patterns with `*`", "dialect/native/values.rs", "MAX_GLOBS"),
    ("docs/classes.md", "between. At most {} certificates", "formats/pem.rs", "MAX_CERTIFICATES"),
    ("docs/classes.md", "`secrets` is a list of 1 to {} secrets", "dialect/native/parts.rs", "MAX_PARTS"),
    ("docs/classes.md", "A template has at most {} and", "model/template.rs", "MAX_TEMPLATE"),
    ("docs/classes.md", "One tag has at most {} words and signs", "model/template/scan.rs", "MAX_TOKENS"),
    ("docs/classes.md", "and tags are at most {} deep", "model/template/scan.rs", "MAX_DEPTH"),
    ("docs/classes.md", "At most {} levels of folders", "glob.rs", "LEVELS"),
    ("docs/classes.md", "levels of folders, {} listings for each", "pipeline/below.rs", "LISTS"),
    ("docs/classes.md", "A file has at most {} certificates, and", "formats/pkcs12.rs", "MAX_CERTIFICATES"),
    ("docs/classes.md", "and a class has at most {} keystores", "dialect/class.rs", "MAX_KEYSTORES"),
    ("docs/classes.md", "over {} is an error (TooLarge)", "formats/pkcs12.rs", "MAX_ITERATIONS"),
    ("docs/classes.md", "An element has at most {} bytes, and the path", "model/file.rs", "MAX_ELEMENT"),
    ("docs/classes.md", "bytes, and the path {}.", "model/file.rs", "MAX_PATH"),
    ("docs/configuration.md", "names it. It has at most {} and one document", "config.rs", "MAX_FILE"),
    ("docs/configuration.md", "must be a regular file of at most {}.", "files.rs", "MAX_FILE"),
    ("docs/configuration.md", "another credential may have {}, and", "backend/remote/credential.rs", "MAX_LEN"),
    ("docs/configuration.md", "an age identity file {}.", "backend/store/file/identity.rs", "MAX_FILE"),
    ("docs/configuration.md", "It may have {} entries", "http/files.rs", "MAX_ENTRIES"),
    ("docs/configuration.md", "and its certificates {} together", "http/files.rs", "MAX_FOLDER"),
    ("docs/configuration.md", "the mounts that need the file fail after {}.", "files/desk.rs", "PATIENCE"),
    ("docs/configuration.md", "it gives up after {}.", "app.rs", "START"),
    ("docs/configuration.md", "and waits for it for up to {}.", "server/lock.rs", "WAIT"),
    ("docs/configuration.md", "it checks every {} whether", "server/socket.rs", "LOOK"),
    ("docs/configuration.md", "without a restart: at SIGHUP, and by itself within {} when", "app/reload.rs", "LOOK"),
    ("docs/configuration.md", "a request | {};", "server/mod.rs", "MAX_REQUEST"),
    ("docs/configuration.md", "its secrets {}, its attributes", "model/request.rs", "MAX_SECRETS"),
    ("docs/configuration.md", "its attributes {} keys", "model/request.rs", "MAX_KEYS"),
    ("docs/configuration.md", "its tokens {} for", "model/request.rs", "MAX_TOKENS"),
    ("docs/configuration.md", "for {} audiences", "model/request.rs", "MAX_AUDIENCES"),
    ("docs/configuration.md", "a message | {} and", "pipeline/error.rs", "MAX_MESSAGE"),
    ("docs/configuration.md", "KiB and {} faults", "model/faults.rs", "MAX_FAULTS"),
    ("docs/configuration.md", "a YAML text | {} values", "yaml.rs", "MAX_NODES"),
    ("docs/configuration.md", "anchors and aliases, and {} levels", "yaml.rs", "MAX_DEPTH"),
    ("docs/configuration.md", "names in one `fields` | {} |", "dialect/class.rs", "MAX_NAMES"),
    ("docs/configuration.md", "a class | {} names in `fields`", "dialect/class.rs", "MAX_NAMES_OF_CLASS"),
    ("docs/configuration.md", "names in `fields`, and {} of paths", "dialect/layout.rs", "MAX_TEXT"),
    ("docs/configuration.md", "a mount | {} steps of work", "steps.rs", "OF_A_MOUNT"),
    ("docs/configuration.md", "connections over all sockets | {}.", "server/seats.rs", "SEATS"),
    ("docs/configuration.md", "does not name have {} together", "server/seats.rs", "STRANGERS"),
    ("docs/configuration.md", "calls | {} on each of", "server/seats.rs", "STREAMS"),
    ("docs/configuration.md", "four connections, {} on each further", "server/seats.rs", "FURTHER_STREAMS"),
    ("docs/configuration.md", "the metrics' port | {} connections", "telemetry/endpoint.rs", "MAX_CONNECTIONS"),
    ("docs/configuration.md", "The client has {} to send it", "telemetry/endpoint.rs", "TO_SEND"),
    ("docs/configuration.md", "send it, and {} to read the answer", "telemetry/endpoint.rs", "TO_READ"),
    ("docs/configuration.md", "does not start HTTP/2 within {}.", "server/connection.rs", "GREETING"),
    ("docs/configuration.md", "duration of at most {}, `2m`", "backend/caching.rs", "LONGEST_FRESH"),
    ("docs/configuration.md", "asked the store. At most {}.", "backend/caching.rs", "LONGEST_STALE"),
    ("docs/configuration.md", "a queue ({} for the log", "telemetry/outlet.rs", "QUEUE"),
    ("docs/configuration.md", "for the log, {} for the audit", "audit/mod.rs", "QUEUE_BYTES"),
    ("docs/configuration.md", "waits at most {} for the readers of the audit", "app.rs", "AUDIT_FLUSH"),
    ("docs/configuration.md", "readers of the audit and {} for those of the log", "cli/serve.rs", "LAST_LINES"),
    ("docs/configuration.md", "Mounts under way have {} to finish", "app.rs", "DRAIN"),
    ("docs/delivery.md", "It watches at most {} volumes", "pipeline/watch.rs", "MOST"),
    ("docs/delivery.md", "writes a volume at most once in {}.", "pipeline/watch.rs", "REST"),
    ("docs/delivery.md", "below `kubeletDir` (it waits at most {} for", "delivery/volumes.rs", "FIND"),
    ("docs/errors.md", "A message over {} is cut", "pipeline/error.rs", "MAX_MESSAGE"),
    ("docs/exec.md", "{} files, 4 MiB", "cli/exec/variables.rs", "MAX_FILES"),
    ("docs/failover.md", "The first member has {} for its answer", "backend/failover/order.rs", "PATIENCE"),
    ("docs/file-vault.md", "a secret, set | {};", "backend/store/file/vault.rs", "MAX_BYTES"),
    ("docs/file-vault.md", "`set` warns over {} |", "cli/vault.rs", "USUAL_LIMIT"),
    ("docs/file-vault.md", "fields of a secret | {};", "backend/store/file/document.rs", "MAX_FIELDS"),
    ("docs/file-vault.md", "recipients of a vault | {} |", "backend/store/file/recipients.rs", "MAX_RECIPIENTS"),
    ("docs/file-vault.md", "at most {} if some are slow", "backend/store/file/queue.rs", "AT_ONCE"),
    ("docs/file-vault.md", "are in more than {} folders", "files/inotify.rs", "MOST"),
    ("docs/file-vault.md", "Then it writes up to {} secrets at a time", "cli/vault/transfer.rs", "BATCH"),
    ("docs/http-store.md", "A file has at most {}.", "backend/remote/credential.rs", "MAX_LEN"),
    ("docs/http-store.md", "a number of at most {} bytes", "backend/store/http/version.rs", "MAX_VERSION"),
    ("docs/http-store.md", "A secret has at most {} fields", "backend/remote/fields.rs", "MAX_FIELDS"),
    ("docs/http-store.md", "searches has at most {} JSON values", "backend/store/http/exact.rs", "MAX_VALUES"),
    ("docs/http-store.md", "A message has the first {} characters", "backend/store/http/status.rs", "MAX_WORDS"),
    ("docs/identity.md", "reports it when the keys are more than {} old", "identity/keyurl.rs", "OLD"),
    ("docs/identity.md", "The token has at most {}.", "identity/token.rs", "MAX_LEN"),
    ("docs/identity.md", "all usable keys after the first {}.", "identity/keys.rs", "MAX_KEYS"),
    ("docs/identity.md", "At most {} calls run at once", "identity/review.rs", "CALLS"),
    ("docs/identity.md", "run at once, each for at most {}.", "kube.rs", "CALL"),
    ("docs/identity.md", "`/readyz` reports this for {}.", "identity/review.rs", "TOLD"),
    ("docs/leases.md", "or takes more than {}.", "backend/stack/lease/keeper.rs", "CALL"),
    ("docs/leases.md", "Keyferry watches at most {} Pods", "backend/stack/lease/pods.rs", "MOST"),
    ("docs/leases.md", "it goes on for at most {} after", "backend/stack/lease/table.rs", "LATE"),
    ("docs/monitoring.md", "A node sends at most {} Events per minute", "events.rs", "A_MINUTE"),
    ("docs/monitoring.md", "A list has at most {} entries", "app/status.rs", "MAX_LISTED"),
    ("docs/monitoring.md", "a text has at most {} characters", "app/status.rs", "MAX_TEXT"),
    ("docs/monitoring.md", "Keyferry looks for such Pods every {},", "app/pods.rs", "LOOK"),
    ("docs/outage.md", "If no mount has asked for {}, Keyferry stops", "backend/stack/circuits/circuit.rs", "WANTED"),
    ("docs/outage.md", "8 s, and at most {}. Each", "backend/stack/circuits/held.rs", "LONGEST"),
    ("docs/outage.md", "that login and namespace for that time, but for {} at most", "backend/stack/circuits/held.rs", "LONGEST_ASKED"),
    ("docs/security.md", "A Pod has at most {} leases", "backend/stack/lease/room.rs", "MOST_EACH"),
    ("docs/security.md", "where a namespace has a share of {} an hour", "pipeline/told.rs", "HOUR_BYTES"),
    ("docs/security.md", "any run of {} characters", "redact.rs", "RUN"),
    ("docs/security.md", "any whole value of {} characters", "redact.rs", "WHOLE"),
    ("docs/vault.md", "any run of {} or more characters", "redact.rs", "RUN"),
    ("docs/vault.md", "any whole value of {} or more characters", "redact.rs", "WHOLE"),
    ("docs/vault.md", "with at most {} characters", "backend/store/vault/fault.rs", "MAX_WORDS"),
    ("docs/vault.md", "or more than {} fields", "backend/remote/fields.rs", "MAX_FIELDS"),
];

/// The value of `const NAME: T = ...;` of a source file: a number, or a time in seconds.
fn constant(source: &str, name: &str) -> Option<u64> {
    let line = source.lines().find(|line| line.contains(&format!("const {name}: ")))?;
    let value = line.split_once(" = ")?.1.split(';').next()?;
    let (text, unit) = match value.strip_prefix("Duration::from_").or_else(|| value.strip_prefix("SignedDuration::from_")) {
        Some(time) => {
            let (unit, rest) = time.split_once('(')?;
            let seconds = [("secs", 1), ("mins", 60), ("hours", 3600)].into_iter().find(|(name, _)| *name == unit)?.1;
            (rest.trim_end_matches(')'), seconds)
        }
        None => (value, 1),
    };
    let number = |text: &str| match text.trim() {
        "MIB" => Some(1 << 20),
        text => text.replace('_', "").parse::<u64>().ok(),
    };
    let product = match text.split_once("<<") {
        Some((number_of, bits)) => number(number_of)? << number(bits)?,
        None => text.split('*').map(number).product::<Option<u64>>()?,
    };
    Some(product * unit)
}

/// The number at the beginning of a text, with its unit, and what follows.
fn amount(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != ',')?;
    let number: u64 = text[..end].replace(',', "").parse().ok()?;
    let rest = text[end..].trim_start();
    let units =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("minutes", 60), ("minute", 60), ("hours", 3600), ("hour", 3600), ("s", 1), ("h", 3600)];
    for (unit, factor) in units {
        if let Some(after) = rest.strip_prefix(unit).filter(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric())) {
            return Some((number * factor, after));
        }
    }
    Some((number, &text[end..]))
}

#[test]
fn limits_of_the_pages_are_constants_of_the_program() {
    let mut wrong = Vec::new();
    for (page, text, file, name) in LIMITS {
        let shown = joined(&fs::read_to_string(root().join(page)).unwrap());
        let known = constant(&fs::read_to_string(root().join("src").join(file)).unwrap(), name);
        let (before, after) = text.split_once("{}").unwrap();
        let has = |(at, _): (usize, &str)| {
            let (number, rest) = amount(&shown[at + before.len()..])?;
            rest.starts_with(after).then_some(number)
        };
        let found: Vec<u64> = shown.match_indices(before).filter_map(has).collect();
        if known.is_none() || found.first() != known.as_ref() {
            wrong.push(format!("{page}: {text:?}: the page has {found:?}, and {name} of src/{file} is {known:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The schema of a mapping, by its reference or in place.
fn resolved<'s>(schema: &'s Value, node: &'s Value) -> &'s Value {
    node["$ref"].as_str().map_or(node, |target| schema.pointer(target.trim_start_matches('#')).unwrap())
}

/// The defaults of the keys of one kind of backend, such as `auth.audience`.
fn backend_defaults(schema: &Value, node: &Value, path: &str) -> Vec<(String, String)> {
    let properties = resolved(schema, node)["properties"].as_object().into_iter().flatten();
    let of_one = |(key, below): (&String, &Value)| {
        let path = format!("{path}{key}");
        let default = match &below["default"] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other @ (Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Some(other.to_string()),
        };
        let own = default.map(|text| (path.clone(), text));
        own.into_iter().chain(backend_defaults(schema, below, &format!("{path}."))).collect::<Vec<_>>()
    };
    properties.flat_map(of_one).collect()
}

/// The rows of a kind's table: the keys, and the column with type and default.
fn backend_rows(page: &str, kind: &str) -> Vec<(Vec<String>, String)> {
    let table = page.split(&format!("\n`kind: {kind}`")).nth(1).unwrap_or_else(|| panic!("no table for kind: {kind}"));
    let lines = table.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let mut cells = line.trim_start_matches("| ").split(" | ");
        let (keys, column) = (cells.next()?.strip_prefix("`backends.<name>.")?, cells.next()?);
        let keys: Vec<&str> = keys.split('`').step_by(2).collect();
        // `auth.credentialsFile`, `profile`: the second is below `auth`, too.
        let above = keys[0].rsplit_once('.').map_or(String::new(), |(above, _)| format!("{above}."));
        let rest = keys[1..].iter().map(|key| format!("{above}{key}"));
        Some((Some(keys[0].to_owned()).into_iter().chain(rest).collect(), column.to_owned()))
    };
    lines.filter_map(row).collect()
}

/// Defaults that depend on other keys, or that a table shows in another way.
const OTHER_DEFAULTS: [(&str, &str, &str); 3] = [
    ("vault", "classMay.role", "`{ role: [\"*\"] }`"),
    ("vault", "classMay.tls", "true or false"),
    ("aws", "classMay.role", "`role`: list of patterns, `[\"**\"]`"),
];

#[test]
fn the_page_of_the_configuration_has_the_defaults_of_each_kind_of_backend() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let schema: Value = serde_json::from_str(&fs::read_to_string(root().join("schemas/config.json")).unwrap()).unwrap();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for kind in ["aws", "failover", "file", "http", "vault"] {
        let rows = backend_rows(&page, kind);
        let known = backend_defaults(&schema, &schema["$defs"][format!("{kind}Backend")], "");
        let column = |key: &str| rows.iter().find(|(keys, _)| keys.iter().any(|one| one == key)).map(|(_, column)| column.as_str());
        for (key, default) in &known {
            count += 1;
            let other = OTHER_DEFAULTS.iter().find(|(of, name, _)| *of == kind && name == key).map(|(_, _, shown)| (*shown).to_owned());
            let column = if other.is_some() { column("classMay") } else { column(key) }.unwrap_or_default();
            // `GET` or `POST`, `GET`; JSON as a text
            let shown = other.unwrap_or_else(|| format!(", `{default}`"));
            if !column.contains(&shown) {
                wrong.push(format!("docs/configuration.md: kind {kind}: {key}: {column:?} does not have {shown}"));
            }
        }
        // `cache` has a list of keys in that column, and other cells end with several values.
        for (keys, column) in rows.iter().filter(|(keys, _)| keys[0] != "cache") {
            let last = column.split(';').filter_map(|part| part.rsplit_once(", `")?.1.strip_suffix('`')).filter(|last| !last.contains('`'));
            let is_known = |last: &&str| known.iter().any(|(key, default)| default == last && keys.iter().any(|one| key.starts_with(one)));
            let strange = last.filter(|last| !is_known(last));
            wrong.extend(
                strange.map(|last| format!("docs/configuration.md: kind {kind}: {keys:?}: the schema does not have the default {last}")),
            );
        }
    }
    assert!(count > 12, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the tests above would find.
#[test]
fn a_number_that_the_program_does_not_have_is_found() {
    let page = "It ends with 3. The exit code is 4 (exit code 5). It ends with a dot.\n\n| code | x |\n|---|---|\n| 6 | y |\n| a | z |\n\n| 7 | |\n";
    assert_eq!(mentions(&joined(page)), ["ends 3", "code 4", "code 5"]);
    assert_eq!(uncovered(page, &["It ends with 3.".to_owned(), "| 6 | y".to_owned()]), ["code 4", "code 5"]);
    assert_eq!(uncovered(page, &[]).len(), 4);
    let source = "const A: usize = 16 * 1024;\npub const B: Duration = Duration::from_mins(5); // x\nconst C: usize = 1 << 20;\nconst D: u64 = 50_000_000;";
    let values = ["A", "B", "C", "D", "E"].map(|name| constant(source, name));
    assert_eq!(values, [Some(16_384), Some(300), Some(1 << 20), Some(50_000_000), None]);
    let amounts = ["64 KiB, and", "1,024 keys", "5 s.", "2 minutes", "32 stores"].map(|text| amount(text).unwrap());
    assert_eq!(amounts, [(65_536, ", and"), (1024, " keys"), (5, "."), (120, ""), (32, " stores")]);
}
