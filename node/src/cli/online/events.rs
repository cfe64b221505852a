//! `barn events`: what happens, as it happens.

use std::fmt::Write as _;

use barnraiser_protocol::time::Timestamp;
use serde_json::{Map, Value};

use super::super::{CommandResult, Exit};
use super::context::Context;
use super::words::plain;

/// `barn events`: until the node stops, or the reader does.
pub(super) async fn events(context: &Context) -> CommandResult {
    let mut events = context.client.get_lines::<Map<String, Value>>("/api/v1/events").await?;
    while let Some(mut event) = events.next().await? {
        // They come as documents already.
        let kind = event.remove("kind");
        event.remove("version");
        context.out.stream(kind.as_ref().and_then(Value::as_str).unwrap_or("event"), &event)?;
        context.out.say(line(&event))?;
    }
    context.out.note("the node has stopped");
    Ok(Exit::DONE)
}

/// `TIME NETWORK EVENT name=value …`; whatever a later version says too is shown as well.
fn line(document: &Map<String, Value>) -> String {
    let Some(Value::Object(event)) = document.get("event") else {
        return format!("-{}", fields(document, &[]));
    };
    let at = document.get("at").and_then(Value::as_u64).map_or_else(|| "-".into(), |at| Timestamp(at).to_string());
    let network = document.get("network").map_or_else(|| "-".into(), value);
    let name = event.get("event").and_then(Value::as_str).unwrap_or("-");
    format!("{at} {network} {}{}", plain(name), fields(event, &["event"]))
}

fn fields(fields: &Map<String, Value>, without: &[&str]) -> String {
    let mut text = String::new();
    for (name, field) in fields.iter().filter(|(name, field)| !without.contains(&name.as_str()) && !field.is_null()) {
        // Writing to a `String` can't fail.
        let _ = write!(text, " {}={}", plain(name), value(field));
    }
    text
}

/// Ids shortened, leases as ACTION/SLOT/EPOCH, texts with blanks in quotation marks, all else as JSON.
fn value(value: &Value) -> String {
    match value {
        Value::String(text) if is_id(text) => text.chars().take(10).collect(),
        Value::String(text) if text.contains(char::is_whitespace) => format!("{:?}", plain(text)),
        Value::String(text) => plain(text),
        Value::Object(fields) => match (fields.get("action").and_then(Value::as_str), fields.get("slot"), fields.get("epoch")) {
            (Some(action), Some(slot), Some(epoch)) => format!("{}/{slot}/{epoch}", action.chars().take(10).collect::<String>()),
            _ => plain(&value_text(fields)),
        },
        other => plain(&other.to_string()),
    }
}

fn value_text(fields: &Map<String, Value>) -> String {
    let inner: Vec<String> = fields.iter().map(|(name, field)| format!("{name}: {}", value(field))).collect();
    format!("{{{}}}", inner.join(", "))
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_event_is_one_short_line() {
        let id = |digit: &str| digit.repeat(64);
        let document = serde_json::json!({
            "at": 1_700_000_000_000u64,
            "network": id("a"),
            "event": {
                "event": "revealed",
                "lease": { "action": id("b"), "slot": 1, "epoch": 2 },
                "operator": id("c"),
                "outcome": { "success": { "tree": id("d") } },
                "reason": "two words\u{1b}",
            },
        });
        assert_eq!(
            line(document.as_object().unwrap()),
            "2023-11-14T22:13:20Z aaaaaaaaaa revealed lease=bbbbbbbbbb/1/2 operator=cccccccccc \
             outcome={success: {tree: dddddddddd}} reason=\"two words\""
        );
        let missed = serde_json::json!({ "count": 7 });
        assert_eq!(line(missed.as_object().unwrap()), "- count=7");
    }
}
