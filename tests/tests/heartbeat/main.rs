//! The procedures that operators of Heartbeat run to convince themselves that their cluster works,
//! with the files that they have: `../shared/SCENARIOS.md` H1, H2 and H3, literally but for names of
//! interfaces and addresses. Each runs with the times as they stand in those files and once more with
//! short ones.

mod h1;
mod h2;
mod h3;
mod holes;
mod support;
