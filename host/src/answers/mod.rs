//! What users ask, what analyzers conclude, and what could not be seen for it.
//!
//! In reading order: [`question`] is asked, [`report`] is one node's answer, [`flow`] what its evidence says of a
//! conversation, [`needs`] says what each question rests on, [`blind_spots`] what of that is missing now,
//! [`services`] words what concerns a Kubernetes Service, [`policies`] what network policies do not allow,
//! [`host_pods`] names pods with the host's network, [`cluster`] joins the answers of several nodes.

pub mod blind_spots;
pub mod cluster;
pub mod flow;
pub mod host_pods;
pub mod needs;
pub mod policies;
pub mod question;
pub mod report;
pub mod services;
