//! Stands in for the site's token until `hsm` has it.

/// See `keyhaven_hsm::managed::SiteToken`.
#[derive(Clone, Debug)]
pub struct SiteToken(());
