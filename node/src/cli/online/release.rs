//! `barn release propose`, `publish`, `show`.

use std::path::Path;

use barnraiser_protocol::release::{RELEASE_BYTES_MAX, ReleaseDraft, ReleaseError};
use barnraiser_protocol::trust::keys::SigningKey;

use super::super::args::{ProposeArgs, PublishArgs};
use super::super::output::{Style, Table, bytes};
use super::super::{CommandResult, Exit};
use super::context::{Context, InNetwork, segment};
use super::words::plain;
use crate::api::{Problem, Propose, Publish, ReleaseView};
use crate::home::{Home, read_key_text};

/// `barn release propose`
pub(super) async fn propose(context: &Context, args: &ProposeArgs) -> CommandResult {
    let network = context.network().await?;
    let (draft, document) = proposed(&network, &args.channel, &args.batch, &args.names).await?;
    match &args.output {
        Some(path) => {
            std::fs::write(path, &document).map_err(|error| Problem::failed(format!("writing {}: {error}", path.display())))?;
            context.out.note(draft.describe());
            context.out.note(format!("each maintainer signs it: barn sign {} --key KEY -o SIG", path.display()));
            let about = serde_json::json!({
                "file": path, "channel": draft.channel(), "release": draft.version(), "id": draft.id(), "targets": draft.targets().len(),
            });
            context.out.document("proposed", &about)?;
            context.out.say(path.display().to_string())?;
        }
        // The document itself is JSON, so it is the output either way.
        None => super::log::write_raw(document.as_bytes())?,
    }
    Ok(Exit::DONE)
}

/// The draft that the node makes of a batch, and its text.
async fn proposed(network: &InNetwork<'_>, channel: &str, batch: &str, names: &[String]) -> Result<(ReleaseDraft, String), Problem> {
    let ask = Propose { channel: channel.to_owned(), batch: batch.to_owned(), names: names.to_vec() };
    let document = network.context.client.post_bytes(&network.path("release/propose"), &ask).await?;
    let draft = ReleaseDraft::parse(&document).map_err(|error| Problem::failed(format!("the node's proposal: {error}")))?;
    // What is about to be signed is what was asked for, whoever answered.
    if draft.network() != network.id || &**draft.channel() != channel {
        return Err(Problem::unverified(format!(
            "the node proposes release {} of {} in network {}, which is not what was asked for",
            draft.version(),
            &**draft.channel(),
            draft.network().short(),
        )));
    }
    let text = String::from_utf8(document.to_vec()).map_err(|error| Problem::failed(format!("the node's proposal: {error}")))?;
    Ok((draft, text))
}

/// `barn release publish`
pub(super) async fn publish(context: &Context, home: &Home, args: &PublishArgs) -> CommandResult {
    let network = context.network().await?;
    let document = match (&args.batch, &args.key) {
        (Some(batch), Some(key)) => signed(&network, home, &args.what, batch, key).await?,
        // Clap asks for both or none of them.
        _ => assembled(Path::new(&args.what))?,
    };
    let view: ReleaseView = context.client.post(&network.path("release/publish"), &Publish { document }).await?;
    context.out.document("release", &view)?;
    context.out.say(release_text(context, &view))?;
    Ok(Exit::DONE)
}

/// The text of an assembled release.
fn assembled(path: &Path) -> Result<String, Problem> {
    let unread = |error: String| Problem::usage(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| unread(error.to_string()))?.len();
    if length > RELEASE_BYTES_MAX as u64 {
        return Err(unread(format!("{length} bytes; a release has at most {RELEASE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unread(error.to_string()))?;
    if ReleaseDraft::parse(text.as_bytes()).is_ok() {
        let advice = "it is proposed and not signed: `barn sign` it, and put the signatures on it with `barn release assemble`";
        return Err(unread(advice.into()));
    }
    Ok(text)
}

/// Proposes, signs and assembles.
async fn signed(network: &InNetwork<'_>, home: &Home, channel: &str, batch: &str, key: &Path) -> Result<String, Problem> {
    let secret = read_key_text(key)?;
    let secret = SigningKey::parse(&secret).map_err(|error| Problem::usage(format!("{}: {error}", key.display())))?;
    let entry = home.network(&network.id)?;
    let charter = entry
        .and_then(|entry| entry.charter)
        .ok_or_else(|| Problem::unreachable("the network's rules are not in this home yet: is the node still joining?".to_owned()))?;
    let (draft, _) = proposed(network, channel, batch, &[]).await?;
    network.context.out.note(draft.describe());
    let release = draft.assemble(&[draft.sign(&secret)], &charter).map_err(|error| match error {
        ReleaseError::Signatures(missing) => Problem::forbidden(format!(
            "this key alone can't release in {channel}: {missing}. \
             Where several must sign: `barn release propose`, `barn sign` by each, `barn release assemble`, `barn release publish`"
        )),
        other => Problem::failed(other.to_string()),
    })?;
    String::from_utf8(release.to_bytes()).map_err(|error| Problem::failed(format!("the release: {error}")))
}

/// `barn release show`
pub(super) async fn show(context: &Context, channel: &str) -> CommandResult {
    let network = context.network().await?;
    let view: ReleaseView = context.client.get(&network.path(&format!("releases/{}", segment(channel)))).await?;
    context.out.document("release", &view)?;
    context.out.say(release_text(context, &view))?;
    Ok(Exit::DONE)
}

/// A release and its files.
pub(super) fn release_text(context: &Context, view: &ReleaseView) -> String {
    let out = &context.out;
    let signers: Vec<String> = view.signed_by.iter().map(|key| plain(key)).collect();
    let mut text = format!(
        "{} release {}, good until {}\nsigned by {} ({} of {} that are wanted)\n\n",
        out.paint(Style::Strong, &plain(&view.channel)),
        view.version,
        plain(&view.expires),
        signers.join(", "),
        signers.len(),
        view.threshold,
    );
    let mut table = Table::new(&["file", "size", "BLAKE3", "action"]);
    for (name, target) in &view.targets {
        let action = target.action.map_or_else(|| "-".into(), |action| action.short());
        table.row([plain(name), bytes(target.length), target.blake3.to_string(), action]);
    }
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use barnraiser_protocol::id::{ActionId, BlobHash};

    use super::super::samples;
    use super::*;
    use crate::api::ReleasedTarget;

    #[test]
    fn a_release_shows_its_files_and_who_signed() {
        let target = ReleasedTarget {
            blake3: BlobHash([1; 32]),
            sha256: "0".repeat(64),
            length: 2048,
            action: Some(ActionId([2; 32])),
            evidence: None,
        };
        let view = ReleaseView {
            channel: "stable".into(),
            version: 3,
            expires: "2030-01-01T00:00:00Z".into(),
            signed_by: vec!["a".into(), "b".into()],
            threshold: 2,
            targets: BTreeMap::from([("LE.img".into(), target)]),
        };
        let text = release_text(&samples::context(), &view);
        assert!(text.starts_with("stable release 3, good until 2030-01-01T00:00:00Z\nsigned by a, b (2 of 2 that are wanted)\n"), "{text}");
        assert!(text.ends_with(&format!("LE.img  2.0 KiB  {}  0202020202", "01".repeat(32))), "{text}");
    }

    #[test]
    fn a_file_that_is_no_release_is_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("release");
        assert_eq!(assembled(&path).unwrap_err().exit_code(), 2);
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(assembled(&path).unwrap_err().exit_code(), 2);
    }
}
