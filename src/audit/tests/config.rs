//! The mapping under `audit`.

use crate::audit::{AlertRule, AuditConfig, Rotate, Watched};
use crate::yaml::{Faults, Reader, parse};

fn parsed(text: &str) -> Result<AuditConfig, String> {
    let (node, mut faults) = (parse(text).unwrap(), Faults::default());
    let mut reader = Reader::of(&node, "audit", &mut faults).unwrap();
    let config = AuditConfig::parse(&mut reader, &mut faults);
    reader.finish(&mut faults);
    let faults = faults.into_sorted();
    if faults.is_empty() { Ok(config) } else { Err(faults.iter().map(|fault| format!("{fault}\n")).collect()) }
}

fn rule(watched: Watched, number: usize, seconds: u64) -> AlertRule {
    AlertRule { watched, number, within: tokio::time::Duration::from_secs(seconds) }
}

#[test]
fn what_is_left_out_has_a_default() {
    assert_eq!(parsed("{}").unwrap(), AuditConfig::default());
    assert_eq!(parsed("{ file: stdout, rotate: , alerts: }").unwrap(), AuditConfig::default());
    let rotate = |text: &str| parsed(&format!("{{ file: /a, rotate: {text} }}")).unwrap().rotate.unwrap();
    assert_eq!(rotate("{}"), Rotate { size: 64 << 20, keep: 4 });
    assert_eq!(rotate("{ size: 64KiB, keep: 1 }"), Rotate { size: 64 << 10, keep: 1 });
    assert_eq!(rotate("{ size: 1024MiB, keep: 100 }"), Rotate { size: 1 << 30, keep: 100 });
    assert_eq!(
        parsed("{ alerts: [{ rule: manySecrets }, { rule: denials }] }").unwrap().alerts,
        [rule(Watched::ManySecrets, 50, 600), rule(Watched::Denials, 20, 300)]
    );
    assert_eq!(
        parsed("{ alerts: [{ rule: denials, count: 4096, within: 24h }, { rule: manySecrets, secrets: 1, within: 1s }] }").unwrap().alerts,
        [rule(Watched::Denials, 4096, 86_400), rule(Watched::ManySecrets, 1, 1)]
    );
    assert_eq!(parsed("{ alerts: [] }").unwrap().alerts, []);
}

#[test]
fn what_cannot_be_is_a_fault_with_its_remedy() {
    let faults: Vec<String> = [
        "{ rotate: {} }",
        "{ file: stdout, rotate: { size: 1MiB } }",
        "{ file: audit.log, rotate: {} }",
        "{ file: /a, rotate: true }",
        "{ file: /a, rotate: { size: 64 } }",
        "{ file: /a, rotate: { size: 0, keep: 0 } }",
        "{ file: /a, rotate: { size: 2GiB, keep: 101 } }",
        "{ file: /a, rotate: { size: 64KB, keep: 1.5, days: 7 } }",
        "{ alerts: manySecrets }",
        "{ alerts: [manySecrets] }",
        "{ alerts: [{}] }",
        "{ alerts: [{ rule: manysecret, secrets: 5 }, { rule: everything, count: 0 }] }",
        "{ alerts: [{ rule: manySecrets, secrets: 0, within: 0 }] }",
        "{ alerts: [{ rule: manySecrets, secrets: 4097, within: 25h }] }",
        "{ alerts: [{ rule: manySecrets, count: 5, within: 1500ms }] }",
        "{ alerts: [{ rule: denials, count: -1, within: soon }] }",
        "{ alerts: [{ rule: denials, count: 99999999999999999999 }] }",
        "{ alerts: [{ rule: denials }, { rule: manySecrets }, { rule: denials, count: 5 }] }",
    ]
    .into_iter()
    .map(|text| parsed(text).unwrap_err())
    .collect();
    insta::assert_snapshot!(faults.concat(), @r#"
    audit.rotate: cannot rotate standard output, because kubelet or the shell keeps its file (name a file in audit.file, or remove `rotate`)
    audit.rotate: cannot rotate standard output, because kubelet or the shell keeps its file (name a file in audit.file, or remove `rotate`)
    audit.file: "audit.log" is not an absolute path (start it with /)
    audit.rotate: is a text, but must be a mapping (write a line `key: value` for each key)
    audit.rotate.size: "64" is 64 bytes, and one line may have 65536 (write at least 64KiB, for example 64MiB)
    audit.rotate.size: "0" is 0 bytes, and one line may have 65536 (write at least 64KiB, for example 64MiB)
    audit.rotate.keep: 0 would delete all lines at each rotation (write at least 1, or remove `rotate`)
    audit.rotate.size: "2GiB" is not a size (write for example 512KiB, 1MiB or 3.5MiB; at most 1024MiB)
    audit.rotate.keep: "101" is not a number of files (write a whole number from 1 to 100)
    audit.rotate.size: "64KB" is not a size (write for example 512KiB, 1MiB or 3.5MiB; at most 1024MiB)
    audit.rotate.keep: "1.5" is not a number of files (write a whole number from 1 to 100)
    audit.rotate.days: is not a known key (known here: size, keep)
    audit.alerts: is a text, but must be a list of rules (start each with `- `)
    audit.alerts rule 1: is a text, but must be a mapping (write a line `key: value` for each key)
    audit.alerts rule 1.rule: is missing (write for example rule: manySecrets, or rule: denials)
    audit.alerts rule 1.rule: "manysecret" is not a rule (did you mean manySecrets?)
    audit.alerts rule 2.rule: "everything" is not a rule (write denials or manySecrets)
    audit.alerts rule 1.secrets: 0 would raise an alert without a reason (write a whole number from 1 to 4096)
    audit.alerts rule 1.within: "0" is not a number of whole seconds (write at least 1s, for example 10m)
    audit.alerts rule 1.secrets: "4097" is more than Keyferry counts for one ServiceAccount (write a whole number from 1 to 4096)
    audit.alerts rule 1.within: "25h" is longer than Keyferry counts (write at most 24h)
    audit.alerts rule 1.count: is not a known key (known here: rule, within, secrets)
    audit.alerts rule 1.within: "1500ms" is not a number of whole seconds (write at least 1s, for example 10m)
    audit.alerts rule 1.count: "-1" is not a whole number from 1 to 4096
    audit.alerts rule 1.within: "soon" is not a duration (write for example 500ms, 90s, 2m or 24h)
    audit.alerts rule 1.count: "99999999999999999999" is not a whole number from 1 to 4096
    audit.alerts rule 3: "denials" is already rule 1 (remove one: each rule can be there once)
    "#);
}
