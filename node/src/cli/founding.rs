//! Networks come into being, and their rules change: at once where one maintainer's signature is enough, by a proposal
//! that is carried to several otherwise.

use std::path::Path;

use barnraiser_protocol::id::OperatorId;
use barnraiser_protocol::keys::is_usable;
use barnraiser_protocol::policy::Policy;
use barnraiser_protocol::record::Payload;
use barnraiser_protocol::record::payload::{NodeCertificate, OperatorCertificate};
use barnraiser_protocol::trust::charter::{
    Change, Charter, NetworkPlan, Proposal, ProposalError, SignError, propose_change, propose_network,
};
use barnraiser_protocol::trust::keys::{NotaryKeys, SigningKey};
use barnraiser_protocol::trust::name::channel_name;
use barnraiser_protocol::trust::signing::{GatherError, SIGNATURE_FILE_BYTES_MAX};
use barnraiser_protocol::trust::tuf::PublicKey;
use barnraiser_protocol::trust::{SIGNABLE_BYTES_MAX, Signable, SignatureFile};
use serde_json::json;

use super::args::{CreateArgs, GrantArgs, GrantRight, OpenArgs, PolicyArgs, SigningWay, TrustArgs};
use super::here::{Here, in_file, now, read_file, write_file};
use super::keys::signing_key;
use super::members::{check_addresses, own_record};
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::home::{Home, OpenHome, write_secret};

/// The most bytes of a policy's file.
const POLICY_BYTES_MAX: usize = 64 << 10;

/// `barn network create`
pub(super) async fn create(here: &Here, args: CreateArgs) -> CommandResult {
    let home = here.home()?;
    let open = home.open()?;
    check_addresses(&args.bootstrap)?;
    let policy = policy_of(&args.policy)?;
    let usage = |error: &dyn std::fmt::Display| Problem::usage(error.to_string());
    // Alone, the network's key is made here; with others, each maintainer has made one and given the card.
    let own_key = args.maintainer.is_empty().then(|| SigningKey::from_seed(&rand::random()));
    let cards = match &own_key {
        Some(key) => vec![key.card(Some(open.operator.operator()))],
        None => args.maintainer.clone(),
    };
    let threshold = args.threshold.unwrap_or_else(|| u32::try_from(cards.len()).unwrap_or(u32::MAX));
    let mut plan = NetworkPlan::new(&args.name, policy, cards, threshold).map_err(|error| usage(&error))?;
    plan.founders = args.founder.iter().copied().collect();
    if !args.channel.is_empty() {
        plan.channels = args.channel.iter().map(|name| channel_name(name)).collect::<Result<_, _>>().map_err(|error| usage(&error))?;
    }
    if let Some(seconds) = args.lease_ttl {
        plan.params.lease_ttl_s = seconds;
    }
    if let Some(seconds) = args.clock_difference {
        plan.params.clock_difference_s = seconds;
    }
    let notary = NotaryKeys::of(&open.operator);
    plan.snapshot = vec![PublicKey::of(&notary.snapshot)];
    plan.timestamp = vec![PublicKey::of(&notary.timestamp)];
    let proposal = propose_network(&plan, now()).map_err(|error| usage(&error))?;
    match (own_key, &args.output) {
        (Some(key), _) => {
            let charter = sign_alone(&proposal, &key)?;
            let file = home.keys_dir().join(format!("{}.key", args.name));
            // A network whose key is lost can't be changed any more, so the key comes first.
            if !write_secret(&file, &key.to_file())? {
                let message = format!("{} is there already: a network of this name was made here; choose another name", file.display());
                return Err(Problem::failed(message));
            }
            here.out.note(format!("the key that signs for this network is {}; keep a copy in a safe place", file.display()));
            establish(here, &home, &open, &charter, &args.bootstrap).await
        }
        (None, Some(output)) => propose(here, &proposal, output),
        // clap asks for the file wherever there are maintainers.
        (None, None) => Err(Problem::usage("-o PROPOSAL is wanted: the maintainers sign it")),
    }
}

/// Writes a proposal for others to sign.
fn propose(here: &Here, proposal: &Proposal, output: &Path) -> CommandResult {
    write_file(output, &proposal.to_bytes())?;
    let (threshold, maintainers) = proposal.threshold();
    here.out.say(proposal.describe().trim_end())?;
    here.out.note(format!(
        "it is in {file}. {threshold} of {maintainers} maintainers sign it: `barn sign {file} --key KEY -o SIG`; then `barn network open {file} SIG…`",
        file = output.display()
    ));
    let fields = json!({
        "file": output, "id": proposal.id(), "network": proposal.network(), "threshold": threshold, "maintainers": maintainers,
        "says": proposal.describe(),
    });
    here.out.document("proposal", &fields)?;
    Ok(Exit::DONE)
}

/// `barn network open`
pub(super) async fn open(here: &Here, args: OpenArgs) -> CommandResult {
    let home = here.home()?;
    let open = home.open()?;
    check_addresses(&args.bootstrap)?;
    let bytes = read_file(&args.proposal, SIGNABLE_BYTES_MAX)?;
    let proposal = match Signable::parse(&bytes).map_err(|error| in_file(&args.proposal, error))? {
        Signable::Proposal(proposal) => proposal,
        Signable::Release(_) => return Err(in_file(&args.proposal, "this is a release; `barn release assemble` puts signatures on it")),
        Signable::Order(_) => return Err(in_file(&args.proposal, "this is a ban or pardon, the proposal is wanted")),
    };
    let files = signature_files(&args.signatures)?;
    let charter = proposal.open(&files).map_err(|error| {
        let message = with_file_names(&error, &args.signatures);
        Problem::unverified(format!("{}: {message}", args.proposal.display()))
    })?;
    match proposal.previous() {
        None => establish(here, &home, &open, &charter, &args.bootstrap).await,
        Some(_) => put_into_force(here, &home, charter).await,
    }
}

/// The signature files that people named.
pub(super) fn signature_files(paths: &[std::path::PathBuf]) -> Result<Vec<SignatureFile>, Problem> {
    paths
        .iter()
        .map(|path| SignatureFile::parse(&read_file(path, SIGNATURE_FILE_BYTES_MAX)?).map_err(|error| in_file(path, error)))
        .collect()
}

fn with_file_names(error: &ProposalError, paths: &[std::path::PathBuf]) -> String {
    match error {
        ProposalError::Signatures(error) => gather_words(error, paths),
        error => error.to_string(),
    }
}

/// What is wrong with signatures, with the name of the file where it is one file's fault.
pub(super) fn gather_words(error: &GatherError, paths: &[std::path::PathBuf]) -> String {
    match error {
        GatherError::OtherDocument { index, .. } => match paths.get(*index) {
            Some(path) => format!("{error} ({})", path.display()),
            None => error.to_string(),
        },
        GatherError::Missing(_) => error.to_string(),
    }
}

/// Signs with one key and makes the charter, where that is enough.
fn sign_alone(proposal: &Proposal, key: &SigningKey) -> Result<Charter, Problem> {
    let signature = proposal.sign(key).map_err(|error: SignError| Problem::forbidden(error.to_string()))?;
    proposal.open(&[signature]).map_err(|error| match error {
        ProposalError::Signatures(_) => {
            let (threshold, maintainers) = proposal.threshold();
            Problem::forbidden(format!(
                "{threshold} of {maintainers} maintainers must sign this: write a proposal with -o PROPOSAL, and carry it to them"
            ))
        }
        error => Problem::usage(error.to_string()),
    })
}

/// Writes a new network into the home, with this operator's certificates.
async fn establish(here: &Here, home: &Home, open: &OpenHome, charter: &Charter, bootstrap: &[String]) -> CommandResult {
    let id = charter.network();
    let name = charter.params().name.to_string();
    // Of one name, the network that the home had first would be the one that is meant; that must not pass unseen.
    if home.networks()?.iter().any(|entry| entry.name == name && entry.id != id) {
        here.out.note(format!("this home is a member of another network {name:?} too; --network takes the id as well"));
    }
    home.add_network(&id, &name, bootstrap)?;
    certify(home, open, &id, None)?;
    home.save_charter(&id, charter)?;
    here.out.say(format!("network {name} is open\nid  {id}"))?;
    let running = here.tell_node(home).await?;
    here.out.document("network", &json!({ "id": id, "name": name, "charter": charter.version(), "running": running }))?;
    Ok(Exit::DONE)
}

/// Adds the certificates of this home's operator and node, where they are not there yet or `bearer` shows an invitation.
pub(super) fn certify(
    home: &Home,
    open: &OpenHome,
    network: &barnraiser_protocol::id::NetworkId,
    bearer: Option<barnraiser_protocol::record::payload::BearerProof>,
) -> Result<(), Problem> {
    let known = home.network(network)?.map(|entry| entry.standing).unwrap_or_default();
    let known: Vec<Payload> = known
        .iter()
        .filter_map(|bytes| barnraiser_protocol::record::Record::open(bytes, *network).ok())
        .filter(|record| record.author_key() == open.operator.public())
        .map(|record| record.payload().clone())
        .collect();
    let certificate = |payload: Payload, again: bool| -> Result<(), Problem> {
        if again || !known.iter().any(|other| other.kind() == payload.kind()) {
            home.add_standing(&own_record(&open.operator, *network, payload)?)?;
        }
        Ok(())
    };
    let invited = bearer.is_some();
    certificate(Payload::OperatorCertificate(OperatorCertificate { bearer }.into()), invited)?;
    certificate(Payload::NodeCertificate(NodeCertificate::new(&open.node, network, &open.operator.operator()).into()), false)
}

/// Replaces the charter of a network by a newer one.
async fn put_into_force(here: &Here, home: &Home, charter: Charter) -> CommandResult {
    let id = charter.network();
    let entry = home
        .network(&id)?
        .ok_or_else(|| Problem::not_found(format!("this home is not a member of network {id}, whose rules this changes")))?;
    let newer = match &entry.charter {
        Some(known) => known.update(charter.parts().clone(), now()).map_err(|error| Problem::unverified(error.to_string()))?,
        None => charter,
    };
    home.save_charter(&id, &newer)?;
    here.out.say(format!("version {} of the rules of network {} is in force", newer.version(), entry.name))?;
    let running = here.tell_node(home).await?;
    here.out.document("network", &json!({ "id": id, "name": entry.name, "charter": newer.version(), "running": running }))?;
    Ok(Exit::DONE)
}

/// Proposes a change, or signs it and puts it into force.
async fn change(here: &Here, changes: &[Change], way: SigningWay) -> CommandResult {
    let home = here.home()?;
    let (entry, charter) = here.live_network(&home)?;
    let proposal = propose_change(&charter, changes, now()).map_err(|error| Problem::usage(error.to_string()))?;
    if let Some(output) = &way.output {
        return propose(here, &proposal, output);
    }
    let own = home.keys_dir().join(format!("{}.key", charter.params().name));
    let file = match way.key {
        Some(file) => file,
        None if own.exists() => own,
        None => {
            let name = &entry.name;
            let message =
                format!("which key signs this change of network {name:?}? Give --key FILE, or -o PROPOSAL to have it signed elsewhere");
            return Err(Problem::usage(message));
        }
    };
    let newer = sign_alone(&proposal, &signing_key(&file)?)?;
    here.out.note(proposal.describe().trim_end());
    put_into_force(here, &home, newer).await
}

/// Refuses what can't be an operator's id, and says so where nobody with this id is known: an id that was mistyped is as
/// good as any other, and nobody notices that the right one has no right.
pub(super) async fn check_operator(here: &Here, operator: &OperatorId) -> Result<(), Problem> {
    if !is_usable(&operator.0) {
        let message = format!("{operator} is no operator's id: nobody can have this key; `barn id` on the operator's machine prints it");
        return Err(Problem::usage(message));
    }
    let home = here.home()?;
    let entry = here.network(&home)?;
    let live = here.status(&home).await?.and_then(|status| status.networks.into_iter().find(|network| network.id == entry.id));
    let name = &entry.name;
    match live {
        Some(live) if live.operators.iter().any(|known| known.operator == *operator) => {}
        Some(_) => here.out.note(format!(
            "nobody with this id has joined {name} yet, as far as the node knows: compare it with what `barn id` prints on the operator's machine"
        )),
        None => here.out.note(format!("whether this operator has joined {name} was not looked up: only a running node knows the members")),
    }
    Ok(())
}

/// `barn network trust`
pub(super) async fn trust(here: &Here, args: TrustArgs) -> CommandResult {
    let TrustArgs { operator, revoke, way } = args;
    if !revoke {
        check_operator(here, &operator).await?;
    }
    change(here, &[if revoke { Change::Untrust(operator) } else { Change::Trust(operator) }], way).await
}

/// `barn network grant`
pub(super) async fn grant(here: &Here, args: GrantArgs) -> CommandResult {
    let GrantArgs { operator, right: GrantRight::Submit, channel, revoke, way } = args;
    let channel = channel_name(&channel).map_err(|error| Problem::usage(error.to_string()))?;
    if !revoke {
        check_operator(here, &operator).await?;
    }
    change(here, &[if revoke { Change::Revoke { operator, channel } } else { Change::Grant { operator, channel } }], way).await
}

/// `barn network policy`
pub(super) async fn policy(here: &Here, args: PolicyArgs) -> CommandResult {
    change(here, &[Change::Policy(policy_of(&args.policy)?)], args.way).await
}

/// `barn channel policy`: the network's one policy, named by one of its channels.
pub(super) async fn channel_policy(here: &Here, name: &str, policy: String, way: SigningWay) -> CommandResult {
    let home = here.home()?;
    let (entry, charter) = here.live_network(&home)?;
    if charter.channel_keys(name).is_none() {
        return Err(Problem::not_found(format!("network {:?} has no channel {name:?}; `barn channel ls` lists them", entry.name)));
    }
    if charter.channels().count() > 1 {
        here.out.note("a network has one policy: this changes it for all channels");
    }
    self::policy(here, PolicyArgs { policy, way }).await
}

/// `barn channel create`
pub(super) async fn create_channel(here: &Here, name: &str, way: SigningWay) -> CommandResult {
    let channel = channel_name(name).map_err(|error| Problem::usage(error.to_string()))?;
    change(here, &[Change::AddChannel(channel)], way).await
}

/// A preset, or the policy in a file.
fn policy_of(text: &str) -> Result<Policy, Problem> {
    if let Some(policy) = Policy::preset(text) {
        return Ok(policy);
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(Problem::usage(format!("{text:?} is neither a preset (solo, small) nor a file")));
    }
    Policy::from_bytes(&read_file(path, POLICY_BYTES_MAX)?).map_err(|error| in_file(path, error))
}
