-- Made by `make texts` from dualcert/store/ahead.py; what is written here by hand is lost.

-- statement: has_revision()
SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version') AS
    alembic_version_1

-- statement: names()
SELECT pair_name.pair_id, pair_name.reversed_name
FROM pair_name
WHERE pair_name.pair_id IN (<ids>) ORDER BY pair_name.pair_id, pair_name.position

-- statement: of_pairs()
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE pair.id IN (<ids>)

-- statement: of_pairs(expiring)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (serving.not_after <= :until OR standby.not_after <= :until) AND pair.id IN (<ids>)

-- statement: of_pairs(of_ca)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (primary_lineage.ca = :ca OR backup_lineage.ca = :ca) AND pair.id IN (<ids>)

-- statement: of_pairs(expiring, of_ca)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (primary_lineage.ca = :ca OR backup_lineage.ca = :ca) AND (serving.not_after <= :until OR
    standby.not_after <= :until) AND pair.id IN (<ids>)

-- statement: page()
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE pair.name > :after ORDER BY pair.name
 LIMIT :limit OFFSET 0

-- statement: page(expiring)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (serving.not_after <= :until OR standby.not_after <= :until) AND pair.name > :after ORDER BY pair.name
 LIMIT :limit OFFSET 0

-- statement: page(of_ca)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (primary_lineage.ca = :ca OR backup_lineage.ca = :ca) AND pair.name > :after ORDER BY pair.name
 LIMIT :limit OFFSET 0

-- statement: page(expiring, of_ca)
SELECT pair.id, pair.name, primary_lineage.ca AS "primary", backup_lineage.ca AS backup, serving.not_after AS
    serving_until, serving_revocation.certificate_id IS NOT NULL OR serving_blocked.spki IS NOT NULL AS
    serving_bad, standby.not_after AS standby_until, standby_revocation.certificate_id IS NOT NULL OR
    standby_blocked.spki IS NOT NULL AS standby_bad, pair_state.backup_ok_until > :at AND standby.not_after > :at
    AND (standby.names_digest = pair.names_digest OR standby_coverage.certificate_id IS NOT NULL) AND
    standby_revocation.certificate_id IS NULL AND standby_wanted.certificate_id IS NULL AND standby_blocked.spki
    IS NULL AND NOT (standby.ca IN (SELECT distrusted_ca.ca
FROM ca_standing AS distrusted_ca
WHERE distrusted_ca.ca > '' AND distrusted_ca.distrusted_at IS NOT NULL) AND (EXISTS (SELECT *
FROM ca_standing
WHERE ca_standing.ca = standby.ca AND (ca_standing.distrust_after IS NULL OR standby.not_before >
    ca_standing.distrust_after)))) AS usable, NOT (EXISTS (SELECT *
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id = pair.id AND (observation.sha256 IS NOT serving.sha256 OR observation.problem IS
    NOT NULL))) AS served
FROM pair JOIN pair_state ON pair_state.pair_id = pair.id JOIN lineage AS primary_lineage ON
    primary_lineage.id = pair_state.primary_lineage JOIN lineage AS backup_lineage ON backup_lineage.id =
    pair_state.backup_lineage LEFT OUTER JOIN certificate AS serving ON serving.id = pair_state.serving LEFT OUTER
    JOIN revocation AS serving_revocation ON serving_revocation.certificate_id = serving.id LEFT OUTER JOIN
    blocked_key AS serving_blocked ON serving_blocked.spki = serving.spki LEFT OUTER JOIN certificate AS standby
    ON standby.id = pair_state.standby LEFT OUTER JOIN revocation AS standby_revocation ON
    standby_revocation.certificate_id = standby.id LEFT OUTER JOIN blocked_key AS standby_blocked ON
    standby_blocked.spki = standby.spki LEFT OUTER JOIN revocation_request AS standby_wanted ON
    standby_wanted.certificate_id = standby.id LEFT OUTER JOIN coverage AS standby_coverage ON
    standby_coverage.certificate_id = standby.id AND standby_coverage.names_digest = pair.names_digest
WHERE (primary_lineage.ca = :ca OR backup_lineage.ca = :ca) AND (serving.not_after <= :until OR
    standby.not_after <= :until) AND pair.name > :after ORDER BY pair.name
 LIMIT :limit OFFSET 0

-- statement: revision()
SELECT version_num
FROM alembic_version

-- statement: seen()
SELECT pair_target.pair_id, pair_target.target, observation.sha256, observation.how, observation.at,
    observation.problem
FROM pair_target LEFT OUTER JOIN observation ON observation.pair_id = pair_target.pair_id AND
    observation.target = pair_target.target
WHERE pair_target.pair_id IN (<ids>) ORDER BY pair_target.pair_id, pair_target.target

-- statement: sides()
SELECT pair_state.pair_id, pair_state.epoch, lineage.id = pair_state.primary_lineage AS is_primary,
    lineage.ca, lineage.renew_at, certificate.serial, certificate.sha256, certificate.spki,
    certificate.not_before, certificate.not_after, certificate.key_type, certificate.issuer
FROM pair_state JOIN lineage ON lineage.id IN (pair_state.primary_lineage, pair_state.backup_lineage) LEFT
    OUTER JOIN certificate ON certificate.id = CASE WHEN (lineage.id = pair_state.primary_lineage) THEN
    pair_state.serving ELSE pair_state.standby END
WHERE pair_state.pair_id IN (<ids>)

-- statement: steps()
SELECT work.id, work.kind, work.pair_id, work.ca, work.target, work.due_at, work.owner, work.fence,
    work.attempts, work.since, work.reason, work.waiting_for, work.queue, work.needed_by
FROM work
WHERE work.pair_id IN (<ids>) ORDER BY work.id

-- statement: under()
SELECT pair.id
FROM pair
WHERE pair.id IN (SELECT pair_name.pair_id
FROM pair_name
WHERE pair_name.reversed_name = :suffix OR pair_name.reversed_name >= :below AND pair_name.reversed_name <
    :beyond) AND pair.name > :after ORDER BY pair.name
