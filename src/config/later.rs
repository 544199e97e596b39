//! Stand-ins until the modules land.
pub mod mirror {
    //! x
    /// x
    #[derive(Clone, Debug, serde::Deserialize)]
    pub struct Config {
        /// x
        #[serde(default = "yes")]
        pub enabled: bool,
    }
    fn yes() -> bool {
        true
    }
    impl Config {
        /// x
        pub fn check(&self) -> Vec<(String, String)> {
            Vec::new()
        }
    }
}
