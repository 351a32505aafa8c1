--
-- PostgreSQL database dump
--

\restrict abc

-- Dumped from database version 17.6
-- Dumped by pg_dump version 17.6

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

--
-- Name: status; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.status AS ENUM (
    'new',
    'COPY public.fake (a) FROM stdin;'
);

--
-- Name: touch(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.touch() RETURNS trigger
    LANGUAGE plpgsql
    AS $_$
BEGIN
  /* it's not closed
COPY public.fake (a) FROM stdin;
1
\.
  PERFORM $x$ ; $x$;
  RETURN NEW;
END $_$;

--
-- Name: twice(integer); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.twice(a integer) RETURNS integer
    LANGUAGE sql
    BEGIN ATOMIC
 INSERT INTO public.fake (a) VALUES (1);
 SELECT (a * 2);
END;

/* a comment /* in a comment */
COPY public.fake (a) FROM stdin;
*/

--
-- Name: orders; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.orders (
    id bigint NOT NULL,
    status public.status DEFAULT 'new'::public.status,
    note text DEFAULT E'it\'s; -- COPY x FROM stdin;'
);

--
-- Name: COLUMN orders.note; Type: COMMENT; Schema: public; Owner: -
--

COMMENT ON COLUMN public.orders.note IS 'free; text';

CREATE SEQUENCE public.orders_id_seq
    START WITH 1;

ALTER SEQUENCE public.orders_id_seq OWNED BY public.orders.id;

CREATE TABLE public."odd ""name""; COPY x FROM stdin;" (
    a integer
);

CREATE TABLE public.empty (
    a integer
);

CREATE TABLE public.inserted (
    a integer,
    b text
);

ALTER TABLE ONLY public.orders ALTER COLUMN id SET DEFAULT nextval('public.orders_id_seq'::regclass);

--
-- Data for Name: orders; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.orders (id, status, note) FROM stdin;
ROWS
1	new	\\.
2	new	COPY public.fake (a) FROM stdin;
3	new	\N
\.


--
-- Data for Name: odd "name"; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public."odd ""name""; COPY x FROM stdin;" (a) FROM stdin;
1
\.


--
-- Data for Name: empty; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.empty (a) FROM stdin;
\.


INSERT INTO public.inserted VALUES (1, 'a;b');
INSERT INTO public.inserted (a, b) VALUES (2, 'it''s (;'), (3, E'\'; COPY public.fake (a) FROM stdin;');


--
-- Name: orders_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.orders_id_seq', 3, true);

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);

CREATE INDEX orders_status ON public.orders USING btree (status);

CREATE TRIGGER touched BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION public.touch();

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_customer_fkey FOREIGN KEY (id) REFERENCES public.customer(id);

GRANT SELECT ON TABLE public.orders TO reader;

--
-- PostgreSQL database dump complete
--

\unrestrict abc

