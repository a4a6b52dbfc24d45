//! Waiting until a command has been carried out: `hactl --wait`.

use std::time::Duration;

use super::client::{Client, ClientError};
use super::command::ExpectedGroup;
use crate::snapshot::{GroupState, GroupStatus};

/// How long a command may take to be carried out.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Waits until every group is where it is expected to be; says what is not, when the time is over.
///
/// # Errors
/// When the daemon cannot be reached any more.
pub async fn until_done(
    client: &Client,
    expected: &[ExpectedGroup],
    limit: Duration,
) -> Result<Vec<String>, ClientError> {
    // Followed before the first look: what happens in between is not missed.
    let mut events = client.follow("/v1/events?follow=true&limit=0").await?;
    let mut missing = missing_of(client, expected).await?;
    let wait = async {
        while !missing.is_empty() {
            if events.next().await?.is_none() {
                return Err(client.ended());
            }
            missing = missing_of(client, expected).await?;
        }
        Ok(())
    };
    match tokio::time::timeout(limit, wait).await {
        Ok(outcome) => outcome.map(|()| Vec::new()),
        Err(_) => missing_of(client, expected).await,
    }
}

async fn missing_of(
    client: &Client,
    expected: &[ExpectedGroup],
) -> Result<Vec<String>, ClientError> {
    let groups: Vec<GroupStatus> = client.get_as("/v1/groups").await?;
    Ok(expected.iter().filter_map(|it| missing(it, &groups)).collect())
}

/// How the group is, when it is not as expected.
fn missing(expected: &ExpectedGroup, groups: &[GroupStatus]) -> Option<String> {
    let group = groups.iter().find(|group| group.name == expected.group)?;
    let wanted = match (&expected.owner, &group.owner) {
        (None, None) => true,
        (Some(wanted), Some(owner)) => wanted == owner && group.state == GroupState::Started,
        (None, Some(_)) | (Some(_), None) => false,
    };
    let state = super::render::word(&group.state);
    let place = group.owner.as_ref().map_or("nowhere".to_owned(), |owner| format!("on {owner}"));
    (!wanted).then(|| format!("{} is {state} {place}", group.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_missing_until_it_runs_where_it_is_expected() {
        let group = |owner: Option<&str>, state| GroupStatus {
            name: "web".parse().unwrap(),
            owner: owner.map(|owner| owner.parse().unwrap()),
            state,
            term: 1,
            wished: None,
            failures: 0,
            nodes: Vec::new(),
            resources: Vec::new(),
        };
        let expected = |owner: Option<&str>| ExpectedGroup {
            group: "web".parse().unwrap(),
            owner: owner.map(|owner| owner.parse().unwrap()),
        };
        let beta = Some("beta");
        let at = |owner, state| missing(&expected(beta), &[group(owner, state)]);
        assert_eq!(at(beta, GroupState::Started), None);
        assert_eq!(at(beta, GroupState::Starting).unwrap(), "web is starting on beta");
        assert_eq!(at(Some("alpha"), GroupState::Started).unwrap(), "web is started on alpha");
        assert_eq!(at(None, GroupState::Stopped).unwrap(), "web is stopped nowhere");
        let disabled = missing(&expected(None), &[group(None, GroupState::Disabled)]);
        assert_eq!(disabled, None);
    }
}
