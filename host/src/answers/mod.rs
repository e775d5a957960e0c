//! What users ask, what analyzers conclude, and what could not be seen for it.
//!
//! In reading order: [`question`] is asked, [`report`] is one node's answer, [`needs`] says what each
//! question rests on, [`blind_spots`] what of that is missing now, [`services`] words what
//! concerns a Kubernetes Service, [`cluster`] joins the answers of several nodes.

pub mod blind_spots;
pub mod cluster;
pub mod needs;
pub mod question;
pub mod report;
pub mod services;
