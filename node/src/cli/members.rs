//! `barn network ticket`, `barn network invite`, `barn join`, `barn leave`: who is in.

use barnraiser_protocol::bounded::BoundedString;
use barnraiser_protocol::id::{NetworkId, OperatorId};
use barnraiser_protocol::keys::SecretKey;
use barnraiser_protocol::record::payload::{Invitation, Invitee, JoinRequest};
use barnraiser_protocol::record::{Payload, Record, SharedRecord};
use barnraiser_protocol::ticket::{BOOTSTRAP_MAX, Ticket, Vouch};
use barnraiser_protocol::time::Timestamp;
use serde_json::json;

use super::args::{InviteArgs, JoinArgs, LeaveArgs, TicketArgs};
use super::founding::{certify, check_operator};
use super::here::{Here, now};
use super::{CommandResult, Exit};
use crate::api::Problem;
use crate::home::{Home, NetworkEntry};

/// A record of this home's operator that lasts as long as the network.
pub(super) fn own_record(operator: &SecretKey, network: NetworkId, payload: Payload) -> Result<SharedRecord, Problem> {
    let issued = now();
    // Sequences only pick the latest of records that replace each other, which none of the operator's do.
    Record::author(operator, network, issued.0, issued, Timestamp::MAX, payload)
        .map_err(|error| Problem::usage(format!("this can't be written as a record: {error}")))
}

/// Checks addresses that people gave.
pub(super) fn check_addresses(addresses: &[String]) -> Result<(), Problem> {
    for address in addresses {
        if let Err(error) = address.parse::<libp2p::Multiaddr>() {
            let message = format!("{address:?} is not an address ({error}); it looks like /ip4/192.0.2.1/tcp/4327/p2p/12D3KooW…");
            return Err(Problem::usage(message));
        }
    }
    Ok(())
}

/// Addresses for a ticket: those given, else those that the home has and the running node's own.
async fn ticket_addresses(here: &Here, home: &Home, entry: &NetworkEntry, given: &[String]) -> Result<Vec<String>, Problem> {
    check_addresses(given)?;
    let mut addresses = given.to_vec();
    if addresses.is_empty() {
        addresses.clone_from(&entry.bootstrap);
        let own = here.status(home).await?.map(|status| status.addresses).unwrap_or_default();
        let is_local = |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
        // Of use to others only where the node is reached by nothing else: on one machine.
        let local_only = own.iter().all(is_local);
        addresses.extend(own.into_iter().filter(|address| local_only || !is_local(address)));
    }
    let mut distinct = Vec::new();
    for address in addresses {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    distinct.truncate(BOOTSTRAP_MAX);
    if distinct.is_empty() {
        here.out.note("this ticket names no node to ask: give --bootstrap ADDRESS, or start the node first (`barn run`)");
    }
    Ok(distinct)
}

fn print_ticket(here: &Here, entry: &NetworkEntry, addresses: Vec<String>, vouch: Option<Vouch>) -> CommandResult {
    let name = entry.name.parse().map_err(|error| Problem::failed(format!("the network's name in the home: {error}")))?;
    let until = vouch.as_ref().map(Vouch::until);
    let ticket = Ticket::new(entry.id, name, addresses, vouch).map_err(|error| Problem::usage(format!("addresses: {error}")))?;
    let word = ticket.to_string();
    here.out.say(&word)?;
    let fields = json!({
        "ticket": word, "network": entry.id, "name": entry.name, "vouches": until.is_some(),
        "until": until.map(Timestamp::to_rfc3339), "bootstrap": ticket.bootstrap().iter().map(|address| address.to_string()).collect::<Vec<_>>(),
    });
    here.out.document("ticket", &fields)?;
    Ok(Exit::DONE)
}

/// `barn network ticket`
pub(super) async fn ticket(here: &Here, args: TicketArgs) -> CommandResult {
    let home = here.home()?;
    let entry = here.network(&home)?;
    let addresses = ticket_addresses(here, &home, &entry, &args.bootstrap).await?;
    print_ticket(here, &entry, addresses, None)
}

/// `barn network invite`
pub(super) async fn invite(here: &Here, args: InviteArgs) -> CommandResult {
    let home = here.home()?;
    let entry = here.network(&home)?;
    let operator = home.operator_key()?;
    let (issued, until) = (now(), now() + args.expires);
    let Some(invitee) = args.operator else {
        let addresses = ticket_addresses(here, &home, &entry, &args.bootstrap).await?;
        let vouch = Vouch::author(&operator, entry.id, issued.0, issued, until, args.uses, &rand::random());
        let vouch = vouch.map_err(|error| Problem::failed(format!("the invitation can't be written: {error}")))?;
        home.add_standing(vouch.invitation())?;
        here.tell_node(&home).await?;
        here.out.note(format!(
            "who has this ticket can join as your guest, {} in all, until {until}; hand it over in private",
            plural(args.uses)
        ));
        return print_ticket(here, &entry, addresses, Some(vouch));
    };
    check_operator(here, &invitee).await?;
    let payload = Payload::Invitation(Invitation { invitee: Invitee::Operator(invitee), until });
    home.add_standing(&own_record(&operator, entry.id, payload)?)?;
    here.out.say(format!("operator {invitee} is invited to {}, until {until}", entry.name))?;
    let running = here.tell_node(&home).await?;
    let fields = json!({ "operator": invitee, "network": entry.id, "until": until.to_rfc3339(), "running": running });
    here.out.document("invitation", &fields)?;
    Ok(Exit::DONE)
}

fn plural(uses: u16) -> String {
    if uses == 1 { "one operator".to_owned() } else { format!("{uses} operators") }
}

/// `barn join`
pub(super) async fn join(here: &Here, args: JoinArgs) -> CommandResult {
    let ticket = Ticket::parse(&args.ticket).map_err(|error| Problem::usage(error.to_string()))?;
    if let Some(vouch) = ticket.vouch()
        && vouch.until() <= now()
    {
        return Err(Problem::usage(format!("the invitation in this ticket ended on {}; ask for another one", vouch.until())));
    }
    let message =
        BoundedString::try_from(args.message.unwrap_or_default()).map_err(|error| Problem::usage(format!("--message: {error}")))?;
    let addresses: Vec<String> = ticket.bootstrap().iter().map(|address| address.to_string()).collect();
    check_addresses(&addresses)?;
    let home = here.home()?;
    if !home.exists()? {
        home.init()?;
        here.out.note(format!("made a home in {}", home.root().display()));
    }
    let open = home.open()?;
    let (id, me) = (ticket.network(), open.operator.operator());
    let known = home.network(&id)?;
    // The folder first, complete but for its records: a join that is cut short is done again by the same command.
    home.add_network(&id, ticket.name(), &addresses)?;
    let vouched = ticket.vouch().filter(|vouch| vouch.inviter() != me);
    if let Some(vouch) = vouched {
        home.add_standing(vouch.invitation())?;
    }
    certify(&home, &open, &id, vouched.map(|vouch| vouch.proof(&me)))?;
    let is_founder = known.as_ref().and_then(|entry| entry.charter.as_ref()).is_some_and(|charter| charter.is_founder(&me));
    if vouched.is_none() && !is_founder && (known.is_none() || !message.is_empty()) {
        home.add_standing(&own_record(&open.operator, id, Payload::JoinRequest(JoinRequest { message }))?)?;
    }
    say_joined(here, &ticket, &me, known.is_some())?;
    let running = here.tell_node(&home).await?;
    let fields = json!({
        "network": id, "name": ticket.name(), "operator": me, "node": open.node.node(), "vouched": vouched.is_some(),
        "already": known.is_some(), "running": running,
    });
    here.out.document("joined", &fields)?;
    Ok(Exit::DONE)
}

fn say_joined(here: &Here, ticket: &Ticket, me: &OperatorId, already: bool) -> Result<(), Problem> {
    let name = ticket.name();
    here.out.say(if already {
        format!("a member of {name} already; what is new in the ticket was added")
    } else {
        format!("joined {name}")
    })?;
    here.out.say(format!("network   {}\noperator  {me}", ticket.network()))?;
    match ticket.vouch() {
        Some(vouch) => here.out.note(format!("invited by operator {}", vouch.inviter().short())),
        None => here.out.note(format!(
            "this ticket vouches for nobody: this operator's builds count once a member invites it (`barn network invite {me}`); fetching works at once"
        )),
    }
    if ticket.bootstrap().is_empty() {
        here.out.note("this ticket names no node to ask: add one with `barn join` and a ticket that does");
    }
    Ok(())
}

/// `barn leave`
pub(super) async fn leave(here: &Here, args: LeaveArgs) -> CommandResult {
    let home = here.home()?;
    let entry = home.pick_network(Some(&args.name))?;
    home.remove_network(&entry.id)?;
    here.out.say(format!("left network {} ({})", entry.name, entry.id.short()))?;
    here.out.note("what was built and fetched stays in the store; the keys stay in the home, and a ticket joins again");
    let running = here.tell_node(&home).await?;
    here.out.document("left", &json!({ "network": entry.id, "name": entry.name, "running": running }))?;
    Ok(Exit::DONE)
}
