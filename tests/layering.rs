//! Keeps the modules a one-way street.
//!
//! Each row names a module and the modules it may `use crate::`. A row may only name rows above it, so the table
//! itself cannot describe a cycle.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

const LAYERS: &[(&str, &[&str])] = &[
    ("record", &[]),
    ("wire", &[]),
    ("memory", &[]),
    ("metrics", &[]),
    ("secret", &[]),
    ("systemd", &[]),
    ("supervise", &["metrics"]),
    ("expr", &["record"]),
    ("log", &["record", "metrics"]),
    ("groups", &["record", "wire", "metrics", "log"]),
    ("txn", &["record", "metrics", "log", "groups"]),
    ("kafka", &["record", "wire", "memory", "metrics", "supervise", "log", "groups", "txn"]),
    ("streams", &["record", "memory", "metrics", "supervise", "log", "groups", "expr"]),
    ("connect", &["record", "metrics", "secret", "supervise", "log", "groups", "expr"]),
    ("mirror", &["record", "wire", "memory", "metrics", "secret", "supervise", "log", "groups"]),
    ("admin", &["record", "metrics", "supervise", "log", "groups", "kafka", "streams", "connect", "mirror"]),
    ("config", &["record", "secret", "expr", "log", "groups", "kafka", "streams", "connect", "mirror", "admin"]),
    ("doctor", &["wire", "log", "metrics", "mirror", "config"]),
    (
        "app",
        &[
            "record",
            "memory",
            "metrics",
            "systemd",
            "supervise",
            "log",
            "groups",
            "txn",
            "kafka",
            "streams",
            "connect",
            "mirror",
            "admin",
            "config",
        ],
    ),
    ("cli", &["record", "wire", "memory", "secret", "log", "kafka", "mirror", "admin", "config", "doctor", "app"]),
];

#[test]
fn table_points_only_upwards() {
    for (i, (name, uses)) in LAYERS.iter().enumerate() {
        for used in *uses {
            assert!(LAYERS[..i].iter().any(|(n, _)| n == used), "{name} may not list {used}: it is not above it");
        }
    }
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir("src").unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(n, _)| *n == module) else {
            wrong.push(format!("{module} has no row"));
            continue;
        };
        let mut used = BTreeSet::new();
        visit(&path, &mut used);
        for u in used {
            if u != module && !allowed.contains(&u.as_str()) {
                wrong.push(format!("{module} -> {u}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A crate named in one module only.
#[test]
fn outside_crates_stay_in_their_module() {
    for (krate, owner) in [("heed", "log"), ("minijinja", "expr"), ("rumqttc", "connect"), ("axum", "admin")] {
        let mut users = BTreeSet::new();
        users_of(Path::new("src"), krate, &mut users);
        users.remove(owner);
        assert!(users.is_empty(), "{krate} belongs to {owner}, but is named in {users:?}");
    }
}

fn users_of(path: &Path, krate: &str, users: &mut BTreeSet<String>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            users_of(&path, krate, users);
        } else if code(&path).contains(&format!("{krate}::")) {
            let inside = path.strip_prefix("src").unwrap();
            let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
            users.insert(module.trim_end_matches(".rs").to_owned());
        }
    }
}

/// The text of a Rust file without its comments; nothing of what lies beside it (a data file of an older format).
fn code(path: &Path) -> String {
    if path.extension().is_none_or(|e| e != "rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Collects the first path segment after every `crate::` below `path`, including the heads of `crate::{a, b::c}`.
fn visit(path: &Path, used: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            visit(&entry.unwrap().path(), used);
        }
        return;
    }
    let code = code(path);
    assert!(!code.contains("super::super::super"), "{}: too many supers, say crate::", path.display());
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            used.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        let (mut depth, mut head, mut fresh) = (0, String::new(), true);
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    used.insert(std::mem::take(&mut head));
                    fresh = true;
                }
                c if depth == 0 && fresh && (c.is_alphanumeric() || c == '_') => head.push(c),
                c if depth == 0 && !c.is_whitespace() => fresh = false,
                _ => {}
            }
        }
        used.insert(head);
    }
    used.remove("");
}

/// A read transaction that lives across an await pins pages, and the file grows for good. So the files that open one know
/// nothing of tasks.
#[test]
fn read_transactions_never_meet_an_await() {
    let mut seen = 0;
    for entry in fs::read_dir("src/log").unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        if text.contains("read_txn(") {
            seen += 1;
            assert!(!text.contains("async ") && !text.contains(".await"), "{} has both", path.display());
        }
    }
    assert!(seen >= 3, "{seen} files open read transactions: the rule does not see them any more");
}
