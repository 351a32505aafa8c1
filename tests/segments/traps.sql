--
-- PostgreSQL database dump
--

SET client_encoding = 'UTF8';

ALTER TABLE ONLY public.orders DROP CONSTRAINT orders_pkey;
ALTER TABLE public.orders ALTER COLUMN id DROP DEFAULT;
DROP TABLE public.orders;

CREATE SCHEMA temp;

CREATE SCHEMA temp_a;

CREATE TABLE temp.stage (
    a text
);

CREATE TABLE temp_a.t (
    a text
);

CREATE FUNCTION public.checked(a integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT CASE WHEN (a > 1) THEN 1 END;
 SELECT 2;
END;

CREATE SEQUENCE public.shared_seq
    START WITH 1;

ALTER TABLE public.shared_seq OWNER TO app;

CREATE TABLE public.parent (
    a integer
);

CREATE TABLE public.child (
    b integer
)
INHERITS (public.parent);

CREATE TABLE public.orders (
    id bigint DEFAULT nextval('public.shared_seq'::regclass),
    note text DEFAULT 'KEY that REFERENCES nothing',
    checked integer GENERATED ALWAYS AS (public.checked(1)) STORED
);

COPY temp.stage (a) FROM stdin;
it's a row
\.

COPY temp_a.t (a) FROM stdin;
1
\.

COPY public.child (a, b) FROM stdin;
1	2
\.

COPY public.orders (id, note) FROM stdin;
1	it's one
\.

SELECT pg_catalog.setval('public.shared_seq', 7, true);

SELECT pg_catalog.lowrite(0, 'x');

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);

--
-- PostgreSQL database dump complete
--
