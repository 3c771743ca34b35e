//! Measuring: pulls of an image through a mirror, cold and warm, against pulls past it.
//!
//! Owns the pull, the plan of a run, and the numbers and the plot that come out. May use `oci` and
//! the port `upstream`: a registry is asked the same way whatever stands in front of it, with fresh
//! connections for every pull. The truth it keeps: what was not measured is absent, not zero.

pub mod plot;
pub mod pull;
pub mod report;
pub mod run;
pub mod statistics;
