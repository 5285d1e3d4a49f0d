//! Where hosts are, and how long a byte takes from one to another.

use core::time::Duration;

/// A part of the world, for partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Europe.
    Eu,
    /// North America.
    Us,
    /// South America.
    Sa,
    /// Asia.
    As,
    /// Africa.
    Af,
    /// Australia and New Zealand.
    Oc,
}

impl Region {
    /// All regions.
    pub const ALL: [Self; 6] = [Self::Eu, Self::Us, Self::Sa, Self::As, Self::Af, Self::Oc];

    /// The region's name in a scenario.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eu => "eu",
            Self::Us => "us",
            Self::Sa => "sa",
            Self::As => "as",
            Self::Af => "af",
            Self::Oc => "oc",
        }
    }
}

/// A city with relays or people.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct City {
    /// The city's name in lower case.
    pub name: &'static str,
    /// The part of the world that the city is in.
    pub region: Region,
    /// Degrees north and degrees east.
    at: (f64, f64),
}

const fn city(name: &'static str, region: Region, north: f64, east: f64) -> City {
    City {
        name,
        region,
        at: (north, east),
    }
}

/// The cities of a simulated world, with their coordinates in whole tenths of a degree.
pub const CITIES: [City; 24] = [
    city("amsterdam", Region::Eu, 52.4, 4.9),
    city("frankfurt", Region::Eu, 50.1, 8.7),
    city("london", Region::Eu, 51.5, -0.1),
    city("paris", Region::Eu, 48.9, 2.4),
    city("stockholm", Region::Eu, 59.3, 18.1),
    city("warsaw", Region::Eu, 52.2, 21.0),
    city("madrid", Region::Eu, 40.4, -3.7),
    city("bucharest", Region::Eu, 44.4, 26.1),
    city("new-york", Region::Us, 40.7, -74.0),
    city("chicago", Region::Us, 41.9, -87.6),
    city("dallas", Region::Us, 32.8, -96.8),
    city("seattle", Region::Us, 47.6, -122.3),
    city("san-jose", Region::Us, 37.3, -121.9),
    city("toronto", Region::Us, 43.7, -79.4),
    city("sao-paulo", Region::Sa, -23.6, -46.6),
    city("santiago", Region::Sa, -33.4, -70.7),
    city("tokyo", Region::As, 35.7, 139.7),
    city("singapore", Region::As, 1.4, 103.8),
    city("mumbai", Region::As, 19.1, 72.9),
    city("seoul", Region::As, 37.6, 127.0),
    city("istanbul", Region::As, 41.0, 29.0),
    city("johannesburg", Region::Af, -26.2, 28.0),
    city("nairobi", Region::Af, -1.3, 36.8),
    city("sydney", Region::Oc, -33.9, 151.2),
];

/// Radius of the earth (kilometres).
const EARTH_KM: f64 = 6_371.0;
/// Light in glass goes at two thirds of its speed (kilometres a second).
const GLASS_KM_PER_SECOND: f64 = 200_000.0;
/// Cables do not go straight.
const DETOUR: f64 = 1.5;

/// How long a byte takes from one city to another, without the last miles.
pub fn delay(from: &City, to: &City) -> Duration {
    let radians = |(north, east): (f64, f64)| (north.to_radians(), east.to_radians());
    let ((north, east), (other_north, other_east)) = (radians(from.at), radians(to.at));
    // The haversine formula.
    let half = |angle: f64| (angle / 2.0).sin().powi(2);
    let chord =
        half(other_north - north) + north.cos() * other_north.cos() * half(other_east - east);
    let distance = 2.0 * EARTH_KM * chord.sqrt().min(1.0).asin();
    let micros = distance * DETOUR / GLASS_KM_PER_SECOND * 1e6;
    // Whole microseconds, so that the last bit of a library's sine decides nothing.
    Duration::from_micros(micros.round() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_the_world() {
        let find = |name| CITIES.iter().find(|city| city.name == name).unwrap();
        let millis = |from, to| delay(find(from), find(to)).as_millis();
        // 5,840, 5,310 and 9,560 kilometres.
        assert_eq!(millis("amsterdam", "new-york"), 43);
        assert!((38..=42).contains(&millis("tokyo", "singapore")));
        assert!((70..=74).contains(&millis("london", "tokyo")));
        assert_eq!(millis("paris", "paris"), 0);
        for (from, to) in CITIES
            .iter()
            .flat_map(|from| CITIES.iter().map(move |to| (from, to)))
        {
            assert_eq!(delay(from, to), delay(to, from));
            assert!(
                delay(from, to) < Duration::from_millis(151),
                "{from:?} {to:?}"
            );
        }
    }
}
