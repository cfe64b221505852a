//! `barn sign`, `barn release assemble`: what is carried to a signer and back.

use barnraiser_protocol::release::ReleaseError;
use barnraiser_protocol::trust::{SIGNABLE_BYTES_MAX, Signable};
use serde_json::json;

use super::args::{AssembleArgs, SignArgs};
use super::founding::{gather_words, signature_files};
use super::here::{Here, in_file, read_file, write_file};
use super::keys::signing_key;
use super::online::words::count;
use super::{CommandResult, Exit};
use crate::api::Problem;

/// `barn sign`
pub(super) fn sign(here: &Here, args: SignArgs) -> CommandResult {
    let bytes = read_file(&args.file, SIGNABLE_BYTES_MAX)?;
    let document = Signable::parse(&bytes).map_err(|error| in_file(&args.file, error))?;
    // In words first: who signs sees what, even where the key turns out to be the wrong one.
    here.out.say(document.describe().trim_end())?;
    let key = signing_key(&args.key)?;
    let signature = document.sign(&key).map_err(|error| Problem::forbidden(format!("{}: {error}", args.key.display())))?;
    write_file(&args.output, &signature.to_bytes())?;
    here.out.note(format!("signed; the signature is in {}", args.output.display()));
    let (kind, network) = match &document {
        Signable::Proposal(proposal) => ("proposal", proposal.network()),
        Signable::Release(release) => ("release", release.network()),
        Signable::Order(order) => ("order", order.network()),
    };
    let fields = json!({ "of": document.id(), "document": kind, "network": network, "says": document.describe(), "file": args.output });
    here.out.document("signature", &fields)?;
    Ok(Exit::DONE)
}

/// `barn release assemble`
pub(super) fn assemble(here: &Here, args: AssembleArgs) -> CommandResult {
    let bytes = read_file(&args.document, SIGNABLE_BYTES_MAX)?;
    let draft = match Signable::parse(&bytes).map_err(|error| in_file(&args.document, error))? {
        Signable::Release(draft) => draft,
        Signable::Proposal(_) => return Err(in_file(&args.document, "this is a proposal; `barn network open` puts signatures on it")),
        Signable::Order(_) => return Err(in_file(&args.document, "this is a ban or pardon, the release is wanted")),
    };
    let home = here.home()?;
    let network = draft.network();
    let entry = home.network(&network)?;
    let charter = entry.and_then(|entry| entry.charter);
    let charter = charter.ok_or_else(|| {
        Problem::not_found(format!(
            "the release is of network {network}, whose rules this home does not know; join it first, to check who may sign"
        ))
    })?;
    let release = draft.assemble(&signature_files(&args.signatures)?, &charter).map_err(|error| {
        let message = match &error {
            ReleaseError::Signatures(error) => gather_words(error, &args.signatures),
            error => error.to_string(),
        };
        Problem::unverified(format!("{}: {message}", args.document.display()))
    })?;
    write_file(&args.output, &release.to_bytes())?;
    let signers = release.signers().len();
    here.out.say(format!("release {} of {} has {}", release.version(), release.channel(), count(signers, "signature", "signatures")))?;
    here.out.note(format!("it is in {0}; `barn release publish {0}` gives it to the network", args.output.display()));
    let keys: Vec<_> = release.signers().iter().map(|key| key.id()).collect();
    let fields = json!({
        "id": release.id(), "network": network, "channel": release.channel(), "number": release.version(),
        "signers": keys, "expires": release.expires().to_rfc3339(), "file": args.output,
    });
    here.out.document("release", &fields)?;
    Ok(Exit::DONE)
}
