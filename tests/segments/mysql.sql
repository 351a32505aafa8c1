/*M!999999\- enable the sandbox mode */ 
-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)
--
-- Host: localhost    Database: shop
-- ------------------------------------------------------

/*!40101 SET @OLD_CHARACTER_SET_CLIENT=@@CHARACTER_SET_CLIENT */;
/*!40101 SET NAMES utf8mb4 */;
/*!40103 SET TIME_ZONE='+00:00' */;

--
-- Table structure for table `orders`
--

DROP TABLE IF EXISTS `orders`;
/*!40101 SET @saved_cs_client     = @@character_set_client */;
CREATE TABLE `orders` (
  `id` int(11) NOT NULL,
  `note` varchar(100) DEFAULT 'it\'s; INSERT INTO `x` VALUES (1);'
) ENGINE=InnoDB;
/*!40101 SET character_set_client = @saved_cs_client */;

--
-- Dumping data for table `orders`
--

LOCK TABLES `orders` WRITE;
/*!40000 ALTER TABLE `orders` DISABLE KEYS */;
INSERT INTO `orders` VALUES (1,'a),(b'),(2,'\'),('),(3,NULL);
INSERT INTO `orders` (`id`,`note`) VALUES
(4,'four # not a comment'),
(5,'five -- not either /*');
/*!40000 ALTER TABLE `orders` ENABLE KEYS */;
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`localhost`*/ /*!50003 TRIGGER `orders_before` BEFORE INSERT ON `orders` FOR EACH ROW begin
  INSERT INTO `log` VALUES (1); INSERT INTO `log` VALUES (2);
end */;;
DELIMITER ;

--
-- Table structure for table `odd``name`
--

DROP TABLE IF EXISTS `odd``name`;
CREATE TABLE `odd``name` (
  `a` int(11)
);
INSERT INTO `odd``name` VALUES (1);

--
-- Dumping routines for database 'shop'
--
DELIMITER ;;
CREATE PROCEDURE `p`()
begin INSERT INTO `orders` VALUES (1); end ;;
DELIMITER ;
/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;

-- Dump completed on 2026-11-24  1:00:00
