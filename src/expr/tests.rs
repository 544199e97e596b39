use proptest::prelude::*;

use super::*;
use crate::record::{Builder, Codec, Unpacker};

const CPU: &str = include_str!("../../tests/samples/wire-cpu-8.17.1.ndjson");
const MAP: &str =
    "{'hostname': value.host.name, 'timestamp': value['@timestamp'], 'cpu': value.system.cpu.total.norm.pct}";

fn of_value(value: Option<&[u8]>) -> Scope {
    Scope::new(&[("value", Variable::Payload(value))])
}

fn eval(source: &str, value: &str) -> Result<Option<String>, Error> {
    let expression = Expression::compile(source, RECORD_VARIABLES)?;
    let out = expression.value(&of_value(Some(value.as_bytes())), 10_000)?;
    Ok(out.map(|o| String::from_utf8(o).unwrap()))
}

fn is_true(source: &str, value: &str) -> Result<bool, Error> {
    Expression::compile(source, RECORD_VARIABLES)?.is_true(&of_value(Some(value.as_bytes())))
}

fn why(error: Error) -> String {
    match error {
        Error::Eval { reason, .. } => reason,
        Error::Compile { reason, line, column, .. } => format!("{line}:{column} {reason}"),
    }
}

#[test]
fn the_built_in_streams_read_metric_events() {
    assert_eq!(is_true("value.metricset.name == 'cpu'", CPU), Ok(true));
    assert_eq!(is_true("value.metricset.name == 'memory'", CPU), Ok(false));
    assert_eq!(is_true("value.system.cpu.total.norm.pct > 0.5", CPU), Ok(false));
    assert_eq!(
        eval(MAP, CPU).unwrap().unwrap(),
        r#"{"hostname":"gateway-b.local","timestamp":"2025-01-31T07:55:26.555Z","cpu":0.1889}"#
    );
}

#[test]
fn json_survives_as_it_was() {
    for json in [
        r#"{"z":1,"a":[1.5,-2,true,false,null,"x\n\"é"],"m":{"y":{},"b":[]},"big":18446744073709551615,"one":1.0}"#,
        "[]",
        "true",
        "-0.1889",
        "1e300",
    ] {
        let expected = json.replace("1e300", "1e+300");
        assert_eq!(eval("value", json).unwrap().unwrap(), expected);
    }
    // Text is a value of its own, and none a tombstone.
    assert_eq!(eval("value.name | upper", r#"{"name":"pi"}"#), Ok(Some("PI".into())));
    assert_eq!(eval("value", "not json"), Ok(Some("not json".into())));
    assert_eq!(eval("value.gone", r#"{"gone":null}"#), Ok(None));
}

#[test]
fn a_missing_field_is_false_alone_and_an_error_in_use() {
    let event = r#"{"present":1}"#;
    assert_eq!(is_true("value.absent", event), Ok(false));
    assert_eq!(is_true("not value.absent", event), Ok(true));
    assert_eq!(is_true("value.absent is defined", event), Ok(false));
    assert_eq!(is_true("value.absent is defined and value.absent.deep > 1", event), Ok(false));
    assert_eq!(is_true("value.absent | default(3) > 2", event), Ok(true));
    for source in
        ["value.absent == 1", "value.absent != 1", "value.absent > 1", "value.absent.deep", "1 in value.absent"]
    {
        assert_eq!(is_true(source, event).map_err(why), Err("a field is missing (undefined value)".into()), "{source}");
    }
    assert_eq!(is_true("value.metricset.name == 'cpu'", "plain text").map_err(why).unwrap_err().len(), 36);
    assert_eq!(
        eval("{'a': 1, 'b': value.absent}", event).map_err(why),
        Err("'b' of the result is missing (undefined value)".into())
    );
    assert_eq!(
        eval("{'a': [{'b': value.absent}]}", event).map_err(why),
        Err("'b' of the result is missing (undefined value)".into())
    );
    assert_eq!(
        eval("value.absent", event).map_err(why),
        Err("a member of the result is missing (undefined value)".into())
    );
}

#[test]
fn every_variable_of_a_record() {
    let mut builder = Builder::new();
    builder
        .push(1234, Some(b"k1"), Some(b"{\"a\":2}"), &[("h", Some(b"one")), ("h", Some(b"two")), ("n", None)])
        .unwrap();
    builder.push(1234, None, None, &[]).unwrap();
    let batch = builder.finish(Codec::None, 0);
    let mut unpacker = Unpacker::new(1000);
    let records: Vec<_> = unpacker.records(&batch).unwrap().map(Result::unwrap).collect();
    let all = "[key, value, headers, timestamp, topic, partition, offset]";
    let expression = Expression::compile(all, RECORD_VARIABLES).unwrap();
    let out = |i: usize| {
        let scope = Scope::of_record(&records[i], &"t".into(), 3, expression.uses());
        String::from_utf8(expression.value(&scope, 1000).unwrap().unwrap()).unwrap()
    };
    assert_eq!(out(0), r#"["k1",{"a":2},{"h":"two","n":null},1234,"t",3,0]"#);
    assert_eq!(out(1), r#"[null,null,{},1234,"t",3,1]"#);
    let narrow = Expression::compile("offset > 3 and topic == 't'", RECORD_VARIABLES).unwrap();
    assert!(narrow.uses().has("offset") && narrow.uses().has("topic") && !narrow.uses().has("value"));
}

#[test]
fn compile_errors_say_where() {
    for (source, expected) in [
        ("value.a ==", "1:9 syntax error: unexpected end of input, expected expression"),
        ("value.a == 'cpu", "1:16 syntax error: unexpected end of string"),
        (
            "valeu.a == 1",
            "1:1 unknown variable 'valeu' (known: key, value, headers, timestamp, topic, partition, offset)",
        ),
        ("value.a | nosuch", "1:11 unknown filter: filter nosuch is unknown"),
        ("value is nosuch", "1:10 unknown test: test nosuch is unknown"),
        ("", "1:1 syntax error: unexpected end of input, expected expression"),
    ] {
        assert_eq!(Expression::compile(source, RECORD_VARIABLES).map(|_| ()).map_err(why), Err(expected.into()));
    }
    let call = Expression::compile("nosuch(1)", RECORD_VARIABLES).map(|_| ()).map_err(why).unwrap_err();
    assert!(call.contains("nosuch"), "{call}");
    assert_eq!(
        Template::compile("a\n{{ levels[1 }}", &["levels"]).map(|_| ()).map_err(why).unwrap_err(),
        "2:13 syntax error: unexpected `}`, expected `]`"
    );
    assert!(Template::compile("{{ lvl }}", &["levels"]).is_err());
    assert!(Template::compile("{{ levels | nosuch }}", &["levels"]).is_err());
}

#[test]
fn templates_render_levels_and_payload() {
    let template = Template::compile("{{ levels[1] }}/{{ value.unit }}", &["levels", "value", "topic"]).unwrap();
    assert!(template.uses().has("value") && !template.uses().has("topic"));
    let scope = |payload: &'static str| {
        Scope::new(&[
            ("levels", Variable::Texts(&["sensors", "kitchen", "temperature"])),
            ("value", Variable::Payload(Some(payload.as_bytes()))),
        ])
    };
    assert_eq!(template.render(&scope(r#"{"unit":"C"}"#), 100), Ok("kitchen/C".into()));
    assert!(template.render(&scope("{}"), 100).is_err());
    assert!(template.render(&scope(r#"{"unit":"C"}"#), 8).map_err(why).unwrap_err().contains("larger than 8 bytes"));
    let plain = Template::compile("fixed", &[]).unwrap();
    assert_eq!(plain.render(&scope(""), 100), Ok("fixed".into()));
}

#[test]
fn evaluation_is_bounded() {
    let event = r#"{"n":1000,"s":"xxxxxxxxxx"}"#;
    assert!(why(eval("value.s * 1001", event).unwrap_err()).contains("larger than 10000 bytes"));
    assert!(eval("range(value.n * 1000) | list", event).is_err());
    let endless = Template::compile(
        "{% for i in range(10000) %}{% for j in range(10000) %}{% set x = j %}{% endfor %}{% endfor %}",
        &[],
    )
    .unwrap();
    assert!(why(endless.render(&of_value(None), 100).unwrap_err()).contains("fuel"));
    // Nesting: of the expression, of the value, of the result.
    assert!(Expression::compile(&"(".repeat(100_000), RECORD_VARIABLES).is_err());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(eval("value | length", &deep), Ok(Some(deep.len().to_string())), "read as text");
    assert!(why(eval("1.0 / 0", event).unwrap_err()).contains("not finite"));
}

/// What is skipped of a payload changes no answer.
#[test]
fn a_part_of_the_payload_answers_as_the_whole() {
    let mixed = include_str!("../../tests/samples/wire-9.2.3.ndjson");
    let process = include_str!("../../tests/samples/wire-process-7.2.0-linux.ndjson");
    let others =
        [r#"{"system":5}"#, r#"{"system":null,"host":[{"name":1}]}"#, "[]", "text", "5", r#"{"host":{"name":""}}"#];
    let mut builder = Builder::new();
    for event in mixed.lines().chain(process.lines()).chain(CPU.lines()).chain(others) {
        builder.push(0, None, Some(event.as_bytes()), &[]).unwrap();
    }
    builder.push(0, None, None, &[]).unwrap();
    let batch = builder.finish(Codec::None, 0);
    let mut unpacker = Unpacker::new(1 << 20);
    for record in unpacker.records(&batch).unwrap() {
        let record = record.unwrap();
        for source in [
            MAP,
            "value.metricset.name == 'cpu'",
            "value.system.cpu.total.norm.pct > 0.5",
            "value.system is defined and value.system.cpu is defined",
            "value.system | length",
            "value['host']['name'][1:3] ~ value.host.name",
            "value.process.args[0]",
            "value.host | tojson",
            "value.agent.name | default('x')",
            "not value.a.b",
            "value.host.name if value.host else value.service",
            "value",
        ] {
            let expression = Expression::compile(source, RECORD_VARIABLES).unwrap();
            let part = Scope::of_record(&record, &"t".into(), 0, expression.uses());
            let whole = of_value(record.value);
            assert_eq!(expression.is_true(&part), expression.is_true(&whole), "{source}");
            assert_eq!(expression.value(&part, 10_000), expression.value(&whole, 10_000), "{source}");
        }
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[ab]{0,3}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec(("[abc]", inner), 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_part_of_any_payload_answers_as_the_whole(json in json(), source in "value(\\.[abc]|\\['[abc]'\\]|\\[0\\]){0,3}") {
        let bytes = serde_json::to_vec(&json).unwrap();
        let mut builder = Builder::new();
        builder.push(0, None, Some(&bytes), &[]).unwrap();
        let batch = builder.finish(Codec::None, 0);
        let mut unpacker = Unpacker::new(1 << 20);
        let record = unpacker.records(&batch).unwrap().next().unwrap().unwrap();
        for source in [source.clone(), format!("{source} is defined"), format!("[{source}, value.a]")] {
            let expression = Expression::compile(&source, RECORD_VARIABLES).unwrap();
            let part = Scope::of_record(&record, &"t".into(), 0, expression.uses());
            prop_assert_eq!(expression.value(&part, 10_000), expression.value(&of_value(record.value), 10_000));
        }
    }

    #[test]
    fn any_value_is_an_answer(value in prop::collection::vec(any::<u8>(), 0..100)) {
        let scope = of_value(Some(&value));
        for source in ["value.a.b > 1", "value", "{'a': value}", "value | length", "value ~ 'x'"] {
            let expression = Expression::compile(source, RECORD_VARIABLES).unwrap();
            let _any = (expression.is_true(&scope).is_ok(), expression.value(&scope, 1000).is_ok());
        }
    }

    #[test]
    fn any_source_is_an_answer(source in "\\PC{0,40}") {
        let _any = Expression::compile(&source, RECORD_VARIABLES).map(|e| e.value(&of_value(None), 100).is_ok());
        let _any = Template::compile(&source, RECORD_VARIABLES).map(|t| t.render(&of_value(None), 100).is_ok());
    }
}
